"""The command `python -m bench`: runs the named parts or all, prints each table and writes bench/results/<part>.json."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from bench.measure import machine
from unet4d.system.files import write_json

PARTS = ("core", "configurations", "data", "train", "predict", "backends", "dicom")
RESULTS = Path(__file__).parent / "results"


def main(parts: list[str]) -> int:
    """Run the parts and return the exit code."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        print(f"bench: {unknown[0]!r} is not a part; expected {', '.join(PARTS)}", file=sys.stderr)
        return 2
    about = machine()
    for part in parts or PARTS:
        print(f"\n{part}: {about['device']}, {about['threads']} threads, torch {about['torch']}")
        tables = importlib.import_module(f"bench.{part}").run()
        for name, rows in tables.items():
            print(f"\n{name}")
            print_table(rows)
        write_json(RESULTS / f"{part}.json", {"part": part, "machine": about, "tables": tables})
        print(f"-> {RESULTS / part}.json")
    return 0


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of the same keys in aligned columns."""
    head = list(rows[0])
    cells = [[_shown(row[key]) for key in head] for row in rows]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    for line in [head, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
