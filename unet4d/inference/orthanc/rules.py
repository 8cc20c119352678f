"""Rules: which series on the server are segmented, and by which models; read from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from unet4d.errors import InputError
from unet4d.inference.orthanc.client import SeriesInfo
from unet4d.system.plain_yaml import compose_yaml, node_value
from unet4d.system.regular_files import open_regular
from unet4d.system.text import short_repr

_NO_IMAGES = {"7": "a secondary capture", "66": "a segmentation", "88": "a report", "11": "a presentation state"}
_NO_IMAGES |= {"104": "a document", "481": "an object of radiotherapy", "9": "a waveform"}
_STORAGE = "1.2.840.10008.5.1.4.1.1."


@dataclass(frozen=True)
class Rule:
    """Conditions on a series, and the models that segment it; all conditions must hold, and what is unset always does.

    Attributes:
        name: for the log and the record.
        models: run folders or checkpoint files; several predict together.
        modality: equal to Modality.
        description: regular expression found in SeriesDescription.
        protocol: regular expression found in ProtocolName.
        remote_aet: regular expression that is the whole AE title of the sender.
        called_aet: regular expression that is the whole AE title that the sender called.
        tags: regular expressions found in other main DICOM tags of the series, by keyword.
        join: "series": each series is a study of its own; "study": all series of a DICOM study that match this rule are segmented
            together, as where each slice or each velocity is a series.
    """

    name: str
    models: tuple[Path, ...]
    modality: str | None = "MR"
    description: str | None = None
    protocol: str | None = None
    remote_aet: str | None = None
    called_aet: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    join: str = "series"

    def mismatch(self, tags: Mapping[str, str]) -> str:
        """Return the first tag of a series that does not match, with what was expected; "" if all do."""
        if self.modality is not None and tags.get("Modality", "") != self.modality:
            return f"Modality is not {self.modality}"
        wanted = {"SeriesDescription": self.description, "ProtocolName": self.protocol, **self.tags}
        return next(
            (
                f"{keyword} does not match {pattern!r}"
                for keyword, pattern in wanted.items()
                if pattern is not None and not re.search(pattern, tags.get(keyword, ""))
            ),
            "",
        )

    def origin_mismatch(self, metadata: Mapping[str, str]) -> str:
        """Return the first AE title of an instance's metadata that does not match; "" if all do."""
        wanted = {"RemoteAET": self.remote_aet, "CalledAET": self.called_aet}
        return next(
            (
                f"{name} does not match {pattern!r}"
                for name, pattern in wanted.items()
                if pattern is not None and not re.fullmatch(pattern, metadata.get(name, ""))
            ),
            "",
        )


def choose_rule(
    rules: Sequence[Rule], series: SeriesInfo, instance_metadata: Callable[[str], Mapping[str, str]]
) -> Rule | str:
    """Return the first rule that a series matches, or the reason why it is ignored, without any value of its tags.

    Secondary captures, segmentations, reports and the like match no rule: results of this worker lie in the same studies.

    Args:
        rules: in order.
        series: on the server.
        instance_metadata: returns the metadata of an instance; asked only where the tags match.
    """
    missed = [(rule, rule.mismatch(series.tags)) for rule in rules]
    if not all(why for _, why in missed) and series.instances:
        metadata = instance_metadata(series.instances[0])
        if kind := _kind_without_images(metadata.get("SopClassUid", "")):
            return f"it is {kind}"
        missed = [(rule, why or rule.origin_mismatch(metadata)) for rule, why in missed]
    for rule, why in missed:
        if not why:
            return rule
    return "; ".join(f"{rule.name}: {why}" for rule, why in missed)


def _kind_without_images(sop_class: str) -> str:
    """Return what an object is that holds no image of a scanner; "" for images."""
    return (
        _NO_IMAGES.get(sop_class.removeprefix(_STORAGE).partition(".")[0], "") if sop_class.startswith(_STORAGE) else ""
    )


def read_rules(file: Path | None, models: Sequence[Path]) -> tuple[Rule, ...]:
    """Read a file of rules; without one, every MR series is segmented by `models`.

    Args:
        file: YAML: `rules:` with a list of mappings with the names of `Rule`, and `model` (a path or a list) in place of `models`.
            Paths are relative to the file.
        models: of the rules that name none.

    Raises:
        InputError: the file cannot be read or holds something else; a rule has no model, or a bad expression; two join studies.
    """
    if file is None:
        if not models:
            raise InputError("got neither a model nor --rules, expected one of them; give a run folder")
        return (Rule("every MR series", tuple(models)),)
    entries = _read_entries(file)
    rules = tuple(_rule(entry, f"{file}: rule {i}", file.parent, models) for i, entry in enumerate(entries, 1))
    names = [rule.name for rule in rules]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"{file} names two rules {short_repr(doubled)}, expected a name of its own for each; rename one"
        )
    if sum(rule.join == "study" for rule in rules) > 1:
        raise InputError(f"{file} has several rules with join: study, expected at most one; run a worker for each")
    return rules


def _read_entries(file: Path) -> list[Any]:
    try:
        with open_regular(file) as stream:
            found = node_value(compose_yaml(file, stream.read().decode("utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing; give the path of a file of rules") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is no YAML that can be read ({' '.join(str(error).split())}); correct it") from error
    if (
        not isinstance(found, dict)
        or set(found) != {"rules"}
        or not isinstance(found["rules"], list)
        or not found["rules"]
    ):
        raise InputError(f"{file} holds {short_repr(found)}, expected 'rules:' and a list of rules below; correct it")
    return found["rules"]


def _rule(entry: Any, where: str, folder: Path, models: Sequence[Path]) -> Rule:
    """Return a rule of the file."""
    known = [one.name for one in fields(Rule) if one.name != "models"] + ["model"]
    if not isinstance(entry, dict) or (unknown := [key for key in entry if key not in known]):
        got = short_repr(unknown[0] if isinstance(entry, dict) else entry)
        raise InputError(f"{where} has {got}, expected only {', '.join(known)}; correct it")
    given = {key: value for key, value in entry.items() if value is not None or key == "modality"}
    named = given.pop("model", [])
    named = [named] if isinstance(named, str) else named
    tags = given.get("tags", {})
    texts = [value for key, value in given.items() if key != "tags" and (key, value) != ("modality", None)]
    if (
        not isinstance(named, list)
        or not isinstance(tags, dict)
        or not all(isinstance(one, str) for one in (*texts, *named, *tags, *tags.values()))
    ):
        raise InputError(
            f"{where} holds {short_repr(entry)}, expected texts (in quotes); tags: names with texts; correct it"
        )
    paths = tuple(folder / name for name in named) or tuple(models)
    if not paths:
        raise InputError(f"{where} names no model; give it one, or give one on the command line for all")
    rule = Rule(**{"name": where.rpartition(": ")[2], "models": paths, **given})
    if rule.join not in ("series", "study"):
        raise InputError(f"{where} has join {short_repr(rule.join)}, expected series or study; correct it")
    for pattern in (rule.description, rule.protocol, rule.remote_aet, rule.called_aet, *rule.tags.values()):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise InputError(
                f"{where}: {short_repr(pattern)} is no regular expression ({error}); correct it"
            ) from error
    return rule
