"""JavaScript of a page, from the files beside this module."""

from __future__ import annotations

import functools
import gzip
import hashlib
from importlib.resources import files

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
_FOLDER = files("unet4d.report.viewer")


@functools.cache
def niivue_script() -> str:
    """Return NiiVue as one script that defines `niivue`, with its licence above it.

    Raises:
        RuntimeError: the installed file is not the one that was tested.
    """
    source = gzip.decompress((_FOLDER / "niivue.umd.js.gz").read_bytes())
    found = hashlib.sha256(source).hexdigest()
    if found != NIIVUE_SHA256:
        raise RuntimeError(f"got niivue.umd.js.gz of sha256 {found}, expected {NIIVUE_SHA256}; install unet4d again")
    licence = (_FOLDER / "LICENSE.niivue").read_text(encoding="utf-8")
    return f"/* NiiVue {NIIVUE_VERSION}\n\n{licence}*/\n{source.decode('utf-8')}"


@functools.cache
def page_scripts() -> str:
    """Return the scripts around NiiVue, in the order in which they need one another."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("curve.js", "stage.js", "study.js"))
