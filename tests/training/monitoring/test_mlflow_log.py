"""A run in MLflow, against a stand-in for a server that refuses what the real one refuses."""

from __future__ import annotations

import json
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.builders import tiny_config
from unet4d.errors import InputError
from unet4d.system.distributed import ProcessGroup
from unet4d.training.monitoring.logger import open_logger
from unet4d.training.monitoring.mlflow_log import RUN_ID, check_mlflow
from unet4d.training.monitoring.summary import CONFIG, SUMMARY

NAME = re.compile(r"[\w\-. :/]+")  # of mlflow 3.17


class Server:
    """Runs by id, with what was logged to them; `fails` names the call that raises."""

    def __init__(self):
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict] = {}
        self.fails: set[str] = set()
        self.calls: list[str] = []
        self.uris: set[str] = set()

    def client(self, tracking_uri: str):
        self.uris.add(tracking_uri)
        return Client(self)


class Client:
    """The part of `mlflow.MlflowClient` that is used, with its signatures."""

    def __init__(self, server: Server):
        self._server = server

    def _called(self, name: str) -> None:
        self._server.calls.append(name)
        if name in self._server.fails:
            raise ConnectionError("https://user:secret@host is\ndown")

    def get_experiment_by_name(self, name):
        self._called("get_experiment_by_name")
        found = self._server.experiments.get(name)
        return SimpleNamespace(experiment_id=found) if found else None

    def create_experiment(self, name):
        self._called("create_experiment")
        return self._server.experiments.setdefault(name, str(len(self._server.experiments) + 1))

    def create_run(self, experiment_id, run_name=None):
        self._called("create_run")
        run_id = f"run{len(self._server.runs)}"
        about = {"experiment": experiment_id, "name": run_name, "status": "RUNNING"}
        self._server.runs[run_id] = about | {"params": {}, "metrics": [], "artifacts": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_batch(self, run_id, metrics=(), params=()):
        self._called("log_batch")
        run = self._server.runs[run_id]
        for key, value in params:
            assert run["params"].setdefault(key, value) == value, "a parameter may not change"
            assert len(value) <= 500
        for key, value, timestamp, step in metrics:
            assert NAME.fullmatch(key), key
            assert isinstance(value, float)
            assert timestamp > 1e12, "milliseconds"
            run["metrics"].append((key, value, step))

    def log_artifact(self, run_id, local_path):
        self._called("log_artifact")
        self._server.runs[run_id]["artifacts"].append(local_path.rpartition("/")[2])

    def set_terminated(self, run_id, status=None):
        self._called("set_terminated")
        self._server.runs[run_id]["status"] = status

    def update_run(self, run_id, status=None):
        self._called("update_run")
        self._server.runs[run_id]["status"] = status


@pytest.fixture
def server(monkeypatch):
    """Return a server in place of the package, which need not be installed."""
    made, package, entities = Server(), ModuleType("mlflow"), ModuleType("mlflow.entities")
    package.__spec__ = SimpleNamespace()
    package.MlflowClient = made.client
    entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)
    entities.Param = lambda key, value: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def record(run, epochs_done: int = 0, **train):
    run.mkdir(exist_ok=True)
    return open_logger(run, epochs_done, tiny_config(**{"mlflow": "hearts"} | train), ProcessGroup())


def epoch(number: int, **more) -> dict:
    return {"epoch": number, "step": 10 * number, "loss": 0.5, **more}


def test_settings_numbers_and_files_are_logged(server, tmp_path):
    run = tmp_path / "first"
    one = record(run, epochs=3)
    one.log_epoch(epoch(1, gradient_norm=float("nan"), skipped=[], case_dice={"a": 0.5}))
    one.log_epoch(epoch(2, dice={"left ventricle": 0.25, "wall (inner)": 1}))
    (run / CONFIG).write_text("seed: 0\n")
    (run / SUMMARY).write_text(json.dumps({"state": "finished"}))
    one.close()
    [logged] = server.runs.values()
    assert server.experiments == {"hearts": logged["experiment"]}
    assert logged["name"] == "first"
    assert (logged["params"]["train.epochs"], logged["params"]["seed"]) == ("3", "0")
    assert logged["metrics"] == [
        ("loss", 0.5, 10),
        ("skipped", 0.0, 10),
        ("loss", 0.5, 20),
        ("dice/left ventricle", 0.25, 20),
        ("dice/wall _inner_", 1.0, 20),
    ]
    assert logged["artifacts"] == [CONFIG, SUMMARY]
    assert logged["status"] == "FINISHED"
    assert server.uris == {(run / "mlruns").as_uri()}


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
    assert server.uris == {"http://elsewhere:5000"}


def test_a_server_that_fails_later_is_reported_once_and_not_called_again(server, tmp_path, capsys):
    one = record(tmp_path)
    server.fails.add("log_batch")
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
    server.fails.add("update_run")
    record(tmp_path).log_epoch(epoch(1))
    assert "training continues without it" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["get_experiment_by_name", "create_run", "log_batch"])
def test_a_new_run_that_cannot_be_logged_does_not_begin(server, tmp_path, call):
    server.fails.add(call)
    with pytest.raises(InputError, match=r"failed \(https://host is down\); set MLFLOW_TRACKING_URI"):
        record(tmp_path)
    assert not (tmp_path / RUN_ID).exists()


def test_a_missing_package_is_an_error_only_where_mlflow_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_mlflow(None)
    with pytest.raises(InputError, match=r"train\.mlflow 'hearts' .* pip install mlflow-skinny"):
        check_mlflow("hearts")


def test_a_run_that_does_not_ask_is_not_logged(server, tmp_path):
    record(tmp_path, mlflow=None).log_epoch(epoch(1))
    assert server.calls == []
