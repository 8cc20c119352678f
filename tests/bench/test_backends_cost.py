"""The benchmark of backends at toy sizes: every candidate predicts, and its figures are those of its runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import bench.__main__ as bench_main
from bench import backends
from bench.backend_profile import PARTS
from bench.backends import CANDIDATES, TORCH, Study, backend_bars, mean_dice, table_rows
from bench.measure import Rounds
from bench.predict_runs import Cost


def test_a_row_compares_a_candidate_with_torch():
    cost = Cost(1.0, 4, None, 100.0, 300.0, None)
    rounds = Rounds({TORCH: [4.0, 6.0], "onnxruntime, fp32": [2.0, 3.0], "openvino, fp32": [2.0, 2.0]})
    one, other = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    labels = {TORCH: one, "onnxruntime, fp32": one, "openvino, fp32": other}
    logits = {name: torch.full((2,), 0.5 * n) for n, name in enumerate(rounds)}
    rows = table_rows(rounds, {name: [cost, cost] for name in rounds}, labels, logits)
    assert [row["times as fast"].median for row in rows] == [1.0, 2.0, 2.5]
    assert [row["voxels of another class"] for row in rows] == ["0.0e+00", "0.0e+00", "2.5e-01"]
    assert rows[2]["Dice with torch"] == pytest.approx(mean_dice(one, other)) == pytest.approx(2 / 3)
    assert [row["met"] for row in backend_bars(rows)] == ["yes", "no"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes import torch
def test_every_candidate_predicts(capsys):
    pytest.importorskip("openvino", reason="openvino is missing: pip install 'unet4d[onnx,openvino]'")
    assert "backends" in bench_main.PARTS
    tables = backends.run([Study("toy", (4, 8), (20, 18, 4), 3, (8, 8, 4), rounds=1)])
    assert [row["prediction"] for row in tables["toy"]] == list(CANDIDATES)
    for row in tables["toy, by parts"]:
        assert row["convolutions"] > 0
        assert sum(row[part] for part in (*PARTS, "other")) == pytest.approx(1)
    for table in tables.values():
        bench_main.print_table(table)
    json.dumps(tables, allow_nan=False)
