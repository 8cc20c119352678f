"""All settings of a run: those of a user, and resolved ones; from plain values and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast, get_type_hints

from unet4d.config.inference_section import InferenceConfig
from unet4d.config.sections import (
    FOLDS,
    DataConfig,
    ModelConfig,
    RecomputeConfig,
    ResolvedDataConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    TrainConfig,
)
from unet4d.errors import InputError
from unet4d.system.checks import check_types, describe_value, require
from unet4d.system.old_names import describe_renamed


@dataclass
class Config:
    """The settings of a user; anything may be unset. `unet4d.training.resolve.resolve` gives the `ResolvedConfig`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    fold: int = 0
    """Fold with the subjects for validation, from 0."""
    seed: int = 0
    """Seed of everything random."""
    recompute: RecomputeConfig = field(default_factory=RecomputeConfig)

    def __post_init__(self) -> None:
        """Check the values that depend on one another."""
        check_types(self, "config")
        require(0 <= self.seed < 2**64, "seed", self.seed, "0 or more, below 2**64")
        folds = self.data.folds or FOLDS
        require(0 <= self.fold < folds, "fold", self.fold, f"a number from 0 to {folds - 1}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain Python values (dict, list, str, int, float, bool, None) for YAML, JSON and checkpoints."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration of plain values; the inverse of `as_dict`.

        Raises:
            InputError: a key is unknown or a value fails its check.
        """
        sections = {name: kind for name, kind in get_type_hints(cls).items() if dataclasses.is_dataclass(kind)}
        built = {}
        if not isinstance(values, Mapping):
            raise InputError(f"the configuration is {describe_value(values)}, expected settings by name")
        if unknown := _unknown_names(cls, values):
            names = ", ".join(f"{name!r}{describe_renamed(name)}" for name in unknown)
            raise InputError(f"got the unknown settings {names}; correct their names, or remove them")
        for key, value in values.items():
            built[key] = _build(sections[key], key, value) if key in sections else value
        return cast(Self, _build(cls, "config", built))


@dataclass(kw_only=True)
class ResolvedConfig(Config):
    """All of a run, what was unset derived; None means "none" or, for `chunk_frames`, "as memory allows".

    `train` keeps it as RUN/config.yaml and inside every checkpoint.
    """

    data: ResolvedDataConfig
    model: ResolvedModelConfig
    train: ResolvedTrainConfig


def _unknown_names(kind: Any, values: Mapping[str, Any], section: str = "") -> list[str]:
    """Return the dotted names of values that are no settings."""
    types, names = get_type_hints(kind), list[str]()
    for key, value in values.items():
        if key not in types:
            names.append(f"{section}{key}")
        elif dataclasses.is_dataclass(types[key]) and isinstance(value, Mapping):
            names += _unknown_names(types[key], value, f"{key}.")
    return names


def _build(kind: Any, name: str, values: Mapping[str, Any]) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise InputError(f"{name} is {describe_value(values)}, expected settings by name, such as {known[0]}")
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [key for key in required if key not in values]:
        raise InputError(f"{name} has no {missing[0]}, expected it in the configuration of a run")
    return kind(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
