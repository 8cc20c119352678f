"""The scripts of a report page, from the files beside this one."""

from __future__ import annotations

import functools
import gzip
import hashlib
from importlib.resources import files

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
LICENCE = "LICENSE.niivue"
_OWN = ("curve.js", "stage.js", "study.js")


@functools.cache
def niivue_script() -> str:
    """NiiVue as one script that defines `niivue_script`, its licence above it.

    Raises:
        RuntimeError: the installed file is not the one that was tested.
    """
    folder = files("unet4d.report.viewer")
    source = gzip.decompress((folder / "niivue.umd.js.gz").read_bytes())
    found = hashlib.sha256(source).hexdigest()
    if found != NIIVUE_SHA256:
        raise RuntimeError(
            f"niivue.umd.js.gz holds a file of sha256 {found}; wanted {NIIVUE_SHA256}; install unet4d again"
        )
    licence = (folder / LICENCE).read_text(encoding="utf-8")
    return f"/* NiiVue {NIIVUE_VERSION}\n\n{licence}*/\n{source.decode('utf-8')}"


@functools.cache
def page_scripts() -> str:
    """Our scripts, in the order they need one another."""
    folder = files("unet4d.report.viewer")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in _OWN)
