"""The 14 patients of ACDC that tests of real studies read, where they are there; data/acdc/README.md describes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ACDC = Path(os.environ.get("UNET4D_ACDC14", Path(__file__).parents[2] / "shared/data/acdc14"))
"""The dataset; by default beside the checkout."""
needs_acdc = pytest.mark.skipif(
    not (ACDC / "dataset.json").is_file(), reason=f"no ACDC studies at {ACDC}; set UNET4D_ACDC14"
)
