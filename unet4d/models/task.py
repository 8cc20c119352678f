"""`Task`: the classes, or regions, the channels and the time of a model, in plain values for its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from unet4d.errors import InputError
from unet4d.metrics.cardiac_structures import Roles, parse_roles
from unet4d.metrics.regions import (
    ClassValue,
    Region,
    Regions,
    classes_of,
    label_values,
    region_classes,
    regions_from_dict,
)
from unet4d.system.checks import describe_value
from unet4d.system.class_values import class_fault, is_name


@dataclass(frozen=True)
class Task:
    """The task of a model: its classes, channels and time.

    Attributes:
        labels: class name to its value in label files, background first; the class index is the position.
        channel_names: names of the input channels.
        cyclic: whether the last frame leads into the first.
        held_out: subjects it was validated on and not trained on.
        channel_kinds: what each channel holds, see images/channels.py; empty: all are signal.
        roles: the structure of a heart that a class is, or "other", where its dataset says so.
        regions: unions of the labels that the network has its outputs for, see metrics/regions.py; empty: for each label.
    """

    labels: dict[str, int]
    channel_names: tuple[str, ...]
    cyclic: bool
    held_out: tuple[str, ...] = ()
    channel_kinds: tuple[str, ...] = ()
    roles: Roles = field(default_factory=dict)
    regions: Regions = field(default_factory=dict)

    @property
    def classes(self) -> dict[str, ClassValue]:
        """Return what is predicted and measured: the regions, or without any each foreground class."""
        return classes_of(self.labels, self.regions)

    @property
    def output_names(self) -> list[str]:
        """Return the name of each output of the network: the classes, background first, or the regions."""
        return list(self.regions or self.labels)

    @property
    def output_values(self) -> tuple[int, ...]:
        """Return the label value of each output of the network: of every class, or what every region is painted with."""
        return tuple(region.paint for region in self.regions.values()) or tuple(self.labels.values())

    @property
    def channels(self) -> tuple[int, int]:
        """Return the network's numbers of input and output channels."""
        return len(self.channel_names), len(self.output_values)

    @property
    def region_classes(self) -> tuple[tuple[int, ...], ...]:
        """Return the class indices of each region."""
        return region_classes(self.labels, self.regions)

    def of_indices(self) -> Task:
        """Return the same task for label maps of class indices."""
        index = list(self.labels.values()).index
        regions = {
            name: Region(classes, index(region.paint))
            for (name, region), classes in zip(self.regions.items(), self.region_classes, strict=True)
        }
        return replace(self, labels={name: k for k, name in enumerate(self.labels)}, regions=regions)

    def as_dict(self) -> dict[str, Any]:
        """Return plain Python values."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return values | {"regions": {name: region.as_dict() for name, region in self.regions.items()}}

    @classmethod
    def from_dict(cls, values: Any) -> Task:
        """Return the task of plain values; the inverse of `as_dict`.

        Raises:
            InputError: a value is missing or wrong; names it.
        """
        if not isinstance(values, dict) or not values.keys() >= {"labels", "channel_names", "cyclic", "held_out"}:
            raise InputError("got no task, expected labels, channel_names, cyclic and held_out")
        names = _checked_names(values["channel_names"], "channel_names")
        older = ["signal"] * len(names)  # checkpoints of old know no other kind
        kinds = _checked_names(values.get("channel_kinds", older), "channel_kinds")
        if not names or len(kinds) not in (0, len(names)):
            raise InputError(
                f"got {len(names)} channel_names, {len(kinds)} channel_kinds; expected one each per channel"
            )
        if not isinstance(values["cyclic"], bool):
            raise InputError(f"got cyclic {describe_value(values['cyclic'])}, expected true or false")
        held_out, labels = _checked_names(values["held_out"], "held_out"), _checked_labels(values["labels"])
        regions = regions_from_dict(
            values.get("regions", {}), "regions"
        )  # checkpoints of old have neither these nor roles
        if not set(label_values(regions.values())) <= {*labels.values()} - {0}:
            raise InputError(f"got regions {describe_value(values['regions'])}, expected values among the labels")
        roles = parse_roles(values.get("roles", {}), list(classes_of(labels, regions)), "roles")
        return cls(labels, names, values["cyclic"], held_out, kinds, roles, regions)


def _checked_names(values: Any, what: str) -> tuple[str, ...]:
    """Return a list of names as a tuple."""
    if not isinstance(values, (list, tuple)) or not all(map(is_name, values)):
        raise InputError(f"got {what} {describe_value(values)}, expected a list of names without control characters")
    return tuple(values)


def _checked_labels(labels: Any) -> dict[str, int]:
    """Return class names with their values: background at 0 first, each value once, all from 0 to 255."""
    if not isinstance(labels, dict):
        raise InputError(f"got labels {describe_value(labels)}, expected values by class names")
    fault = class_fault(labels.items())
    if not fault and (len(labels) < 2 or next(iter(labels.values())) != 0):
        fault = "background at 0 first, and another class or more"
    if fault:
        raise InputError(f"got labels {describe_value(labels)}, expected {fault}")
    return dict(labels)
