"""A run in MLflow, for who asks for it: settings once, numbers an epoch, config and summary as artifacts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.system.files import write_text
from unet4d.training.monitoring.summary import CONFIG, SUMMARY

RUN_ID, STORE = "mlflow_run_id", "mlruns"
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_LONGEST = 500
"""Characters of a setting's value that every MLflow takes."""
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is gone holds the training for seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # for the store in the run: databases need more than mlflow-skinny
}


def check_mlflow(experiment: str | None) -> None:
    """See that MLflow is there if it is asked for, before anything long begins.

    Raises:
        InputError: it is not.
    """
    if experiment is not None and importlib.util.find_spec("mlflow") is None:
        raise InputError(
            f"train.mlflow is {experiment!r} and the package mlflow is missing; wanted it installed; pip install mlflow-skinny, "
            "or leave the setting out"
        )


class MlflowLog:
    """A run in MLflow, at MLFLOW_TRACKING_URI or, without that, in the run's folder. A resumed run goes on with the same one.

    A server that fails once the run has begun is told once and then left alone: log.jsonl has everything all the same.

    Args:
        run: the run's folder, which keeps the id that MLflow gave.
        experiment: its name in MLflow.
        settings: of the run, by their flat names; logged once.
        say: told when the server fails.

    Raises:
        InputError: the package is missing, or a new run cannot be begun there.
    """

    def __init__(self, run: Path, experiment: str, settings: Mapping[str, Any], say: Callable[[str], None]):
        check_mlflow(experiment)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.run, self.say, self.lost = run, say, False
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run / STORE).absolute().as_uri()
        self.where = _without_password(uri)
        self.client = MlflowClient(tracking_uri=uri)
        kept = run / RUN_ID
        if kept.is_file():
            self.run_id = kept.read_text(encoding="utf-8").strip()
            self._unless_lost(lambda: self.client.update_run(self.run_id, status="RUNNING"))
            return
        try:
            self.run_id = self._begun(experiment, settings)
        except Exception as error:  # a server, a proxy or their libraries can raise anything
            raise InputError(
                f"MLflow at {self.where} cannot be used ({_said(error)}); wanted a place to log to; set MLFLOW_TRACKING_URI, or "
                "leave --train.mlflow out"
            ) from error
        write_text(kept, f"{self.run_id}\n")

    def metrics(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of an epoch."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        named = [Metric(re.sub(r"[^\w\-. :/]", "_", name), float(value), now, step) for name, value in numbers.items()]
        self._unless_lost(lambda: self.client.log_batch(self.run_id, metrics=named))

    def close(self) -> None:
        """Hand over the configuration and the summary, and say how the run stands by it."""

        def end() -> None:
            state = "failed"
            for name in (CONFIG, SUMMARY):
                if (self.run / name).is_file():
                    self.client.log_artifact(self.run_id, str(self.run / name))
                    if name == SUMMARY:
                        state = json.loads((self.run / name).read_text(encoding="utf-8"))["state"]
            self.client.set_terminated(self.run_id, STATUS.get(state, "FAILED"))

        self._unless_lost(end)

    def _begun(self, experiment: str, settings: Mapping[str, Any]) -> str:
        """The id of a new run that has its settings."""
        from mlflow.entities import Param

        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self.client.create_experiment(experiment)
        run_id = self.client.create_run(number, run_name=self.run.absolute().name).info.run_id
        params = [Param(name, str(value)[:_LONGEST]) for name, value in settings.items()]
        self.client.log_batch(run_id, params=params)
        return run_id

    def _unless_lost(self, call: Callable[[], object]) -> None:
        if self.lost:
            return
        try:
            call()
        except Exception as error:
            self.lost = True
            self.say(
                f"MLflow at {self.where} failed ({_said(error)}); training goes on without it, and log.jsonl has every number"
            )


def _said(error: Exception) -> str:
    return _without_password(" ".join(str(error).split()))[:200] or type(error).__name__


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
