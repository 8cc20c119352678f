"""The descriptions of tables and documents, of which the documentation is made, fit what is written."""

from __future__ import annotations

import re

from unet4d.datasets.propagation.propagate import PROPAGATION
from unet4d.evaluation.compare import COMPARISON
from unet4d.evaluation.curve_comparison import COMPARED_CURVES
from unet4d.evaluation.curve_tables import CURVE_TABLES
from unet4d.evaluation.tables import TABLES
from unet4d.inference.batch.case_measures import MEASURES, PREFIXES, measure_case
from unet4d.inference.batch.summary_tables import VOLUMES
from unet4d.metrics.cardiac_structures import find_roles
from unet4d.phantom.phantom_dataset import TRUE_VOLUMES
from unet4d.system.documents import load_schema, schema_names

WRITTEN = (
    VOLUMES, MEASURES, *CURVE_TABLES, *TABLES.values(), *COMPARED_CURVES.values(), COMPARISON, PROPAGATION, TRUE_VOLUMES,
)  # fmt: skip
UNITS = {"ml": "mL", "mm": "mm", "s": "s", "g": "g", "percent": "%"}


def test_every_column_has_a_meaning_and_those_with_a_unit_name_it():
    for table in WRITTEN:
        assert table.file.endswith(".csv")
        assert all(table.columns.values())
        for column, meaning in table.columns.items():
            unit = UNITS.get(column.rpartition("_")[2])
            assert unit is None or re.search(rf"{unit}\b|{unit}$", meaning), (table.file, column)


def test_the_columns_of_measures_are_those_that_are_described():
    classes = ["left ventricle", "myocardium", "RV", "left atrium", "aorta"]
    roles, found = find_roles(classes), set()
    for column in measure_case({}, classes, roles):
        prefix = next((p for p in [*PREFIXES.values(), "aorta"] if column.startswith(f"{p}_")), None)
        key = column.removesuffix("_per_m2")
        if prefix is None:
            found.add(column)
        else:
            kind = "CLASS" if key.endswith(("max_ml", "min_ml")) else "SIDE"
            found.add(f"{kind}{key.removeprefix(prefix)}")
    assert found == set(MEASURES.columns) - {"..._per_m2"}


def test_every_document_says_which_file_it_is():
    assert {"evaluation", "prediction", "plan"} <= set(schema_names())
    assert all(load_schema(name)["description"].endswith(".") for name in schema_names())


def _described(node, path):
    """Yield every key of a schema with its description."""
    for name, entry in node.get("properties", {}).items():
        is_id = name == "schema" and path.count(".") == 0
        if entry is not True and not is_id:
            yield f"{path}.{name}", name, entry.get("description", "")
            yield from _described(entry, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from _described(node[key], f"{path}.*")
    for part in [*node.get("oneOf", ()), *node.get("anyOf", ()), *node.get("allOf", ())]:
        yield from _described(part, path)
    for name, entry in node.get("definitions", {}).items():
        yield from _described(entry, f"{path}#{name}.")


def test_every_key_of_every_schema_is_described_and_those_with_a_unit_name_it():
    units = {
        **UNITS,
        "bytes": "bytes",
        "gb": "GB",
        "cm": "cm",
        "kg": "kg",
        "bpm": "beats per minute",
        "s": "s|seconds",
        "seconds": "s",
    }
    for schema in schema_names():
        for path, name, description in _described(load_schema(schema), schema):
            assert description, path
            unit = units.get(name.rpartition("_")[2])
            assert unit is None or re.search(rf"(?<!\w)({unit})(?!\w)", description), (path, description)
