"""Contrast agent over time: its concentration in the blood and in each tissue, and the signal of the scanner.

blood      Parker et al., "Experimentally-derived functional form for a population-averaged high-temporal-resolution arterial input
           function for dynamic contrast-enhanced MRI", Magn Reson Med 56:993, 2006
tissue     the extended model of Tofts et al., "Estimating kinetic parameters from dynamic contrast-enhanced T1-weighted MRI of a
           diffusable tracer: standardized quantities and symbols", J Magn Reson Imaging 10:223, 1999
signal     the spoiled gradient echo at steady state (Ernst angle equation)
T1         de Bazelaire et al., "MR imaging relaxation times of abdominal and pelvic tissues measured in vivo at 3.0 T", Radiology
           230:652, 2004
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unet4d.phantom.phantom_study import Array

RELAXIVITY = 3.7
"""Relaxivity of a gadolinium chelate in plasma at 3 T, per second and mM."""
HAEMATOCRIT = 0.42
FINE_STEP_S = 0.5


@dataclass(frozen=True)
class Tissue:
    """Uptake of contrast agent in a tissue, and its appearance before.

    Attributes:
        t1_ms: before contrast agent.
        density: of protons, relative to the kidney's.
        plasma: share of the volume that is blood plasma (v_p).
        transfer: K^trans, per minute.
        washout: k_ep, per minute.
        delay_s: after the artery.
    """

    t1_ms: float
    density: float
    plasma: float = 0.0
    transfer: float = 0.0
    washout: float = 1.0
    delay_s: float = 0.0


def arterial_mm(time_s: Array) -> Array:
    """Compute the concentration in arterial blood in mM, any shape, `time_s` after the bolus arrives; 0 before."""
    t = np.maximum(time_s, 0) / 60
    peaks = sum(
        a / (s * np.sqrt(2 * np.pi)) * np.exp(-((t - m) ** 2) / (2 * s**2))
        for a, m, s in ((0.809, 0.17046, 0.0563), (0.330, 0.365, 0.132))
    )
    tail = 1.050 * np.exp(-0.1685 * t) / (1 + np.exp(-38.078 * (t - 0.483)))
    return np.where(time_s > 0, peaks + tail, 0)


def concentration_mm(tissue: Tissue, time_s: Array, arrival_s: float) -> Array:
    """Compute the concentration in a tissue in mM, (T,), at the times (T,), for a bolus that reaches the artery at `arrival_s`.

    C(t) = v_p C_p(t) + K^trans (C_p * exp(-k_ep .))(t)
    """
    fine = np.arange(0, max(float(np.max(time_s)), 0) + 2 * FINE_STEP_S, FINE_STEP_S)
    plasma = arterial_mm(fine - arrival_s - tissue.delay_s) / (1 - HAEMATOCRIT)
    kernel = np.exp(-tissue.washout * fine / 60)
    leaked = np.convolve(plasma, kernel)[: len(fine)] * FINE_STEP_S / 60
    return np.interp(time_s, fine, tissue.plasma * plasma + tissue.transfer * leaked)


def signal(tissue: Tissue, concentration: Array, repetition_ms: float, flip_deg: float) -> Array:
    """Compute the signal of a spoiled gradient echo at these concentrations in mM, any shape, relative to a proton density of 1."""
    rate = 1000 / tissue.t1_ms + RELAXIVITY * concentration  # per second
    decay, flip = np.exp(-repetition_ms / 1000 * rate), np.deg2rad(flip_deg)
    return tissue.density * np.sin(flip) * (1 - decay) / (1 - np.cos(flip) * decay)
