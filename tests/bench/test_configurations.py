"""The table of shipped configurations is complete and true."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.configurations import EXPERIMENTS, SHIPPED, bytes_of, row

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "configurations.md"


def documented() -> dict[str, dict[str, str]]:
    """The table's rows by the name of the configuration."""
    head, _, *rows = [line.strip("| \n").split("|") for line in TABLE.read_text().splitlines() if line.startswith("|")]
    names = [name.strip() for name in head]
    found = [dict(zip(names, (cell.strip() for cell in cells), strict=True)) for cells in rows]
    return {entry["configuration"]: entry for entry in found}


def test_every_shipped_configuration_has_a_row_and_every_row_a_configuration():
    assert {shipped.file for shipped in SHIPPED.values()} - {None} == {path.name for path in EXPERIMENTS.glob("*.yaml")}
    assert list(documented()) == list(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_row_has_weights_and_work_exactly(name):
    counted = row(name, SHIPPED[name])
    assert {key: documented()[name][key] for key in counted} == counted


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_row_has_the_bytes_of_a_training_step(name):
    counted = bytes_of(SHIPPED[name])
    assert {key: documented()[name][key] for key in counted} == counted
