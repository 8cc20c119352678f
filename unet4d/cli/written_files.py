"""Every table and JSON document that the commands write: columns with their units, and JSON Schemas.

The documentation is made from these. Each table and schema has its home beside its writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unet4d.datasets.propagation.propagate import PROPAGATION
from unet4d.evaluation.compare import COMPARISON
from unet4d.evaluation.tables import TABLES
from unet4d.inference.batch.case_measures import MEASURES
from unet4d.inference.batch.curve_tables import CURVE_TABLES
from unet4d.inference.batch.summary_tables import VOLUMES
from unet4d.phantom.phantom_dataset import TRUE_VOLUMES
from unet4d.system.csv_file import Table
from unet4d.system.documents import load_schema, schema_names

TABLES_OF_COMMANDS: Mapping[str, tuple[Table, ...]] = {
    "predict": (VOLUMES, MEASURES, *CURVE_TABLES),
    "evaluate": tuple(TABLES.values()),
    "compare": (COMPARISON,),
    "propagate": (PROPAGATION,),
    "phantom": (TRUE_VOLUMES,),
}
"""Command to its tables."""


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each document by name; `description` says which file it is of."""
    return {name: load_schema(name) for name in schema_names()}
