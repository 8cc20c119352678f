"""A run in MLflow, against a stand-in for a server that refuses what the real one refuses."""

from __future__ import annotations

import json
import os
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.builders import tiny_config
from unet4d.errors import InputError
from unet4d.system.distributed import ProcessGroup
from unet4d.training.monitoring.logger import open_logger
from unet4d.training.monitoring.mlflow_log import RUN_ID, check_mlflow
from unet4d.training.monitoring.summary import SUMMARY

NAME = re.compile(r"[\w\-. :/]+")  # of mlflow 3.17


class Server(ModuleType):
    """The part of `mlflow` that is used, with its signatures: runs by id, and what was logged to them.

    Attributes:
        fails: names the calls that raise.
    """

    def __init__(self):
        super().__init__("mlflow")
        self.__spec__ = SimpleNamespace()
        self.runs: dict[str, dict] = {}
        self.fails: set[str] = set()
        self.calls: list[str] = []
        self.uri, self.experiment, self.active = "", "", list[str]()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise ConnectionError("https://user:secret@host is\ndown")

    def set_tracking_uri(self, uri):
        self.uri = uri
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if uri is not None:
            os.environ["MLFLOW_TRACKING_URI"] = uri  # as the real one does

    def set_experiment(self, experiment_name):
        self._called("set_experiment")
        self.experiment = experiment_name

    def start_run(self, run_id=None, run_name=None, nested=False):
        self._called("start_run")
        assert nested or not self.active, "one run is active already"
        if run_id is None:
            run_id = f"run{len(self.runs)}"
            about = {"experiment": self.experiment, "uri": self.uri, "name": run_name}
            self.runs[run_id] = about | {"params": {}, "metrics": []}
        assert self.runs[run_id]["experiment"] == self.experiment
        self.runs[run_id]["status"] = "RUNNING"
        self.active.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_params(self, params):
        self._called("log_params")
        for key, value in params.items():
            assert self.runs[self.active[-1]]["params"].setdefault(key, value) == value, "a parameter may not change"

    def log_metrics(self, metrics, step=None):
        self._called("log_metrics")
        for key, value in metrics.items():
            assert NAME.fullmatch(key), key
            self.runs[self.active[-1]]["metrics"].append((key, float(value), step))

    def end_run(self, status="FINISHED"):
        self._called("end_run")
        self.runs[self.active.pop()]["status"] = status


@pytest.fixture
def server(monkeypatch):
    """Return a server in place of the package, which need not be installed."""
    made = Server()
    monkeypatch.setitem(sys.modules, "mlflow", made)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    return made


def record(run, epochs_done: int = 0, **train):
    run.mkdir(exist_ok=True)
    return open_logger(run, epochs_done, tiny_config(**{"mlflow": "hearts"} | train), ProcessGroup())


def epoch(number: int, **more) -> dict:
    return {"epoch": number, "step": 10 * number, "loss": 0.5, **more}


def test_settings_and_numbers_are_logged(server, tmp_path):
    run = tmp_path / "first"
    one = record(run, epochs=3)
    one.log_epoch(epoch(1, gradient_norm=float("nan"), skipped=[], case_dice={"a": 0.5}))
    one.log_epoch(epoch(2, dice={"left ventricle": 0.25, "wall (inner)": 1}))
    (run / SUMMARY).write_text(json.dumps({"state": "finished"}))
    one.close()
    [logged] = server.runs.values()
    assert (logged["experiment"], logged["name"]) == ("hearts", "first")
    assert (logged["params"]["train.epochs"], logged["params"]["seed"]) == (3, 0)
    assert logged["metrics"] == [
        ("loss", 0.5, 10),
        ("skipped", 0.0, 10),
        ("loss", 0.5, 20),
        ("dice/left ventricle", 0.25, 20),
        ("dice/wall _inner_", 1.0, 20),
    ]
    assert logged["status"] == "FINISHED"
    assert logged["uri"] == (run / "mlruns").as_uri()


@pytest.mark.parametrize(
    ("state", "status"), [("stopped", "KILLED"), ("failed", "FAILED"), ("running", "FAILED"), (None, "FAILED")]
)
def test_it_ends_there_as_the_summary_says(server, tmp_path, state, status):
    one = record(tmp_path)
    if state:
        (tmp_path / SUMMARY).write_text(json.dumps({"state": state}))
    one.close()
    assert server.runs["run0"]["status"] == status


def test_a_resumed_run_continues_the_same_mlflow_run(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    first = record(tmp_path)
    first.log_epoch(epoch(1))
    first.close()
    second = record(tmp_path, 1, validate_every=7)  # a setting that may change, where a parameter may not
    assert server.runs["run0"]["status"] == "RUNNING"
    second.log_epoch(epoch(2))
    assert list(server.runs) == ["run0"]
    assert [step for _, _, step in server.runs["run0"]["metrics"]] == [10, 20]
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://elsewhere:5000"
    assert server.uri == "", "it is the package that reads the variable"


def test_a_server_that_fails_later_is_reported_once_and_not_called_again(server, tmp_path, capsys):
    one = record(tmp_path)
    server.fails.add("log_metrics")
    one.log_epoch(epoch(1))
    calls = len(server.calls)
    one.log_epoch(epoch(2))
    one.close()
    assert len(server.calls) == calls
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "//host is down); training continues without it" in said[0]
    assert "secret" not in said[0]
    assert [line["epoch"] for line in one.lines] == [1, 2]


def test_a_server_that_is_gone_does_not_stop_a_resumption(server, tmp_path, capsys):
    record(tmp_path).close()
    server.fails.add("start_run")
    record(tmp_path).log_epoch(epoch(1))
    assert "training continues without it" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["set_experiment", "start_run", "log_params"])
def test_a_new_run_that_cannot_be_logged_there_trains_all_the_same(server, tmp_path, call, capsys):
    server.fails.add(call)
    one = record(tmp_path)
    one.log_epoch(epoch(1))
    one.close()
    assert capsys.readouterr().err.count("training continues without it") == 1
    assert [line["epoch"] for line in one.lines] == [1]
    assert not (tmp_path / RUN_ID).exists(), "a resumption tries again"


def test_each_run_of_a_process_has_its_own_store(server, tmp_path):
    for fold in range(2):
        record(tmp_path / f"fold_{fold}").close()
    assert [run["uri"] for run in server.runs.values()] == [
        (tmp_path / f"fold_{fold}" / "mlruns").as_uri() for fold in range(2)
    ]


def test_a_run_is_logged_inside_a_run_of_the_caller(server, tmp_path):
    server.start_run(run_name="mine")
    record(tmp_path).log_epoch(epoch(1))
    assert [len(run["metrics"]) for run in server.runs.values()] == [0, 1]


def test_a_missing_package_is_an_error_only_where_mlflow_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_mlflow(None)
    with pytest.raises(InputError, match=r"train\.mlflow 'hearts' .* pip install mlflow-skinny"):
        check_mlflow("hearts")


def test_a_run_that_does_not_ask_is_not_logged(server, tmp_path):
    record(tmp_path, mlflow=None).log_epoch(epoch(1))
    assert server.calls == []
