"""Height, weight and heart rate of a subject, and what follows from them: body surface area and the rate of a recorded cycle."""

from __future__ import annotations

from dataclasses import asdict, dataclass

VITAL_LIMITS = {"height_cm": (20.0, 300.0), "weight_kg": (0.3, 700.0), "heart_rate_bpm": (10.0, 1000.0)}
"""Possible values: from the smallest newborn on; hearts of mice beat up to 800 times per minute."""

RATE_FACTOR = 1.5
"""Factor between a given heart rate and that of the cycle; prospective gating leaves out a tenth to a fifth of a beat."""


def is_vital(name: str, value: object) -> bool:
    """Return whether a value is a number that the field of this name can have."""
    low, high = VITAL_LIMITS[name]
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


@dataclass(frozen=True)
class Vitals:
    """Body measures and heart rate of a subject at the time of a study; None where unknown.

    Attributes:
        height_cm: body height.
        weight_kg: body weight.
        heart_rate_bpm: beats per minute.
    """

    height_cm: float | None = None
    weight_kg: float | None = None
    heart_rate_bpm: float | None = None

    @property
    def bsa_m2(self) -> float | None:
        """Return the body surface area in square metres; None unless height and weight are known.

            sqrt(height in cm * weight in kg / 3600)

        Mosteller, "Simplified calculation of body-surface area", N Engl J Med 317:1098, 1987.
        """
        if self.height_cm is None or self.weight_kg is None:
            return None
        return float((self.height_cm * self.weight_kg / 3600) ** 0.5)

    def known(self) -> dict[str, float]:
        """Return the values that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def heart_rate(self, frames: int, frame_duration_s: float | None, cyclic: bool) -> float | None:
        """Return the beats per minute: as given, else one beat in all frames of a cyclic study; None if unknown."""
        return _rate_of_cycle(frames, frame_duration_s, cyclic) if self.heart_rate_bpm is None else self.heart_rate_bpm

    def is_unlike_cycle(self, frames: int, frame_duration_s: float | None, cyclic: bool) -> bool:
        """Return whether the given heart rate and that of the recorded cycle differ by more than a factor of `RATE_FACTOR`."""
        given, recorded = self.heart_rate_bpm, _rate_of_cycle(frames, frame_duration_s, cyclic)
        return bool(given and recorded and max(given, recorded) > RATE_FACTOR * min(given, recorded))


def _rate_of_cycle(frames: int, frame_duration_s: float | None, cyclic: bool) -> float | None:
    """Return the beats per minute where all frames of a cyclic study are one beat; None if unknown."""
    if not cyclic or not frame_duration_s or frames < 2:
        return None
    rate = 60 / (frames * frame_duration_s)
    return rate if is_vital("heart_rate_bpm", rate) else None


UNKNOWN_VITALS = Vitals()
