"""The descriptions of tables and documents, of which the documentation is made, fit what is written."""

from __future__ import annotations

import re

from unet4d.datasets.propagation.propagate import PROPAGATION
from unet4d.evaluation.compare import COMPARISON
from unet4d.evaluation.tables import TABLES
from unet4d.inference.batch.case_measures import MEASURES, PREFIXES, measure_case
from unet4d.inference.batch.curve_tables import CURVE_TABLES
from unet4d.inference.batch.summary_tables import VOLUMES
from unet4d.metrics.cardiac_structures import find_roles
from unet4d.phantom.phantom_dataset import TRUE_VOLUMES
from unet4d.system.documents import load_schema, schema_names

WRITTEN = (VOLUMES, MEASURES, *CURVE_TABLES, *TABLES.values(), COMPARISON, PROPAGATION, TRUE_VOLUMES)
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
