"""Model files: one checkpoint or several with a model card and a licence in one file to hand on, each part checked by its hash.

NAME.unet4d is a zip archive of these entries, stored as they are, so that a plain unzip shows them:

    manifest.json   {"format": "unet4d model 1", "sha256": {entry: hash of its bytes}}
    card.json       the model card: name, intended use, licence, labels, training data, post-processing, ...
    licence.txt     the text of the licence
    NETWORK.pt      a checkpoint without the state of its training, as `save_checkpoint` writes it; of folds fold_0.pt, ...

The path NAME.unet4d/NETWORK stands for one network. Nothing is ever unpacked to disk, and the same content gives the same bytes.
The hashes find damage and careless changes; they are no signature, because whoever changes an entry can hash it, too.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unet4d.errors import InputError
from unet4d.system.digests import file_sha256
from unet4d.system.documents import document
from unet4d.system.files import PathLike, json_text, parse_json, remove_partial, replacing
from unet4d.system.regular_files import open_regular

SUFFIX = ".unet4d"
FORMAT = "unet4d model 1"
NOT_STATED = "not stated"
TRAINING_DATA = "training_data.json"
"""The file in a run's folder with the name of its dataset, and how many subjects, studies and frames it was trained on."""
_MANIFEST, _CARD, _LICENCE, _NETWORK = "manifest.json", "card.json", "licence.txt", ".pt"
_NAME = re.compile(r"[a-z0-9_]{1,64}")
"""Names of networks: no path, no dot."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry, the first that a zip archive can hold."""


class ModelFile(NamedTuple):
    """The content of a model file.

    Attributes:
        card: the model card.
        licence: the text of the licence.
        networks: checkpoints by name.
    """

    card: dict[str, Any]
    licence: str
    networks: dict[str, bytes]


def is_model_file(path: PathLike) -> bool:
    """Return whether a path leads to a file with the name of a model file."""
    path = Path(path)
    return path.suffix == SUFFIX and path.is_file()


def is_network_of_file(path: PathLike) -> bool:
    """Return whether a path stands for one network of a model file."""
    return is_model_file(Path(path).parent)


def write_model_file(path: PathLike, content: ModelFile) -> None:
    """Write a model file, whole or not at all; the same content gives the same bytes.

    Raises:
        Unet4DError: the disk is full, or the folder cannot be written to.
    """
    entries = {
        _CARD: _json_bytes(document("model-card", content.card)),
        _LICENCE: content.licence.encode(),
        **{f"{name}{_NETWORK}": data for name, data in sorted(content.networks.items())},
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in entries.items()}
    remove_partial(Path(path).parent, glob.escape(Path(path).name))
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        for name, data in ({_MANIFEST: _json_bytes({"format": FORMAT, "sha256": hashes})} | entries).items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # on every system as on Unix
            archive.writestr(entry, data)


def read_model_file(path: PathLike) -> ModelFile:
    """Read a model file whole; every entry is checked.

    Raises:
        InputError: it is missing, damaged, changed, or no model file.
    """
    with _opened(Path(path)) as (archive, hashes):
        entries = {name: _read(archive, name, hashes) for name in hashes}
        card, licence = parse_json(entries.pop(_CARD)), entries.pop(_LICENCE).decode()
        if not isinstance(card, dict):
            raise ValueError("its card holds no values by name")
    return ModelFile(card, licence, {name.removesuffix(_NETWORK): data for name, data in entries.items()})


def network_paths(path: PathLike) -> list[Path]:
    """Return the path of each network of a model file, in order; every entry is checked. Raises InputError as `read_model_file`."""
    return [Path(path) / name for name in read_model_file(path).networks]


def only_network(path: PathLike) -> Path:
    """Return the path of the network of a model file. Raises InputError: it holds several."""
    first, *others = network_paths(path)
    if others:
        raise InputError(f"{path} holds {len(others) + 1} networks, expected one; name one, such as {first}")
    return first


def read_network(path: PathLike) -> bytes:
    """Return the checkpoint that a path stands for, such as FILE.unet4d/fold_0, checked.

    Raises:
        InputError: as `read_model_file`; the file has no network of this name.
    """
    path = Path(path)
    with _opened(path.parent) as (archive, hashes):
        return _read(archive, _entry(path, hashes), hashes)


def checkpoint_sha256(path: PathLike) -> str:
    """Return the SHA-256 of a checkpoint file, or of a network of a model file. Raises InputError as `read_network`."""
    path = Path(path)
    if not is_network_of_file(path):
        return file_sha256(path)
    with _opened(path.parent) as (_, hashes):
        return hashes[_entry(path, hashes)]


def _entry(path: Path, hashes: Mapping[str, str]) -> str:
    """Return the entry of a network. Raises InputError: there is none."""
    known = [name.removesuffix(_NETWORK) for name in hashes if name.endswith(_NETWORK)]
    if path.name not in known:
        raise InputError(
            f"{path.parent} has no network {path.name}, expected one of {', '.join(known)}; name one of them"
        )
    return f"{path.name}{_NETWORK}"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, str]]]:
    """Open a model file; give its archive and the hash of each entry, once its structure is checked.

    Turns whatever is wrong with it, inside the context too, into an InputError.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            size = file.seek(0, io.SEEK_END)
            yield archive, _checked_hashes(archive, size)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; give a model file that unet4d export wrote") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a model file") from error
    except Exception as error:  # a damaged archive can make the reader raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path} is damaged or was changed ({reason}), expected a file as unet4d export wrote it; copy it again"
        ) from error


def _checked_hashes(archive: zipfile.ZipFile, size: int) -> dict[str, str]:
    """Return the hash of each entry by the manifest.

    Raises:
        ValueError: entries are packed, are not those of the manifest, or do not make up the whole file.
    """
    entries = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size for one in entries):
        raise ValueError("it is compressed")
    held = sum(one.file_size + 30 + 46 + 2 * len(one.filename.encode()) for one in entries) + 22
    if held != size or (entries and min(one.header_offset for one in entries)):
        raise ValueError("it holds more or less than its entries")
    names = [one.filename for one in entries]
    manifest = parse_json(archive.read(_MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"its manifest does not say {FORMAT!r}; another version may have made it")
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or names != [_MANIFEST, *hashes] or list(hashes)[:2] != [_CARD, _LICENCE]:
        raise ValueError("its entries are not those of its manifest")
    networks = list(hashes)[2:]
    if not networks or not all(
        one.endswith(_NETWORK) and _NAME.fullmatch(one.removesuffix(_NETWORK)) for one in networks
    ):
        raise ValueError("it has no networks, or other names than export gives them")
    return hashes


def _read(archive: zipfile.ZipFile, name: str, hashes: Mapping[str, str]) -> bytes:
    """Return the bytes of an entry. Raises ValueError where they do not have their hash."""
    data = archive.read(name)
    if hashlib.sha256(data).hexdigest() != hashes[name]:
        raise ValueError(f"{name} does not have its hash")
    return data


def _json_bytes(value: Any) -> bytes:
    return json_text(value).encode()
