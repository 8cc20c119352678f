"""The optional log in MLflow: settings once, numbers per epoch, configuration and summary at the end."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.system.files import read_json, write_text
from unet4d.training.monitoring.summary import CONFIG, SUMMARY

logger = logging.getLogger(__name__)

RUN_ID, STORE = "mlflow_run_id", "mlruns"
MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
LONGEST_VALUE = 500
"""Characters of a setting's value that every version of MLflow takes."""
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is gone delays the training by seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # for the store in the run: databases need more than mlflow-skinny
}


def check_mlflow(experiment: str | None) -> None:
    """Raise an InputError if an experiment is named and MLflow is not installed."""
    if experiment is not None and importlib.util.find_spec("mlflow") is None:
        raise InputError(
            f"got train.mlflow {experiment!r} without the package mlflow; pip install mlflow-skinny, or leave the setting out"
        )


class MlflowLog:
    """A run in MLflow, at MLFLOW_TRACKING_URI or, without that, in the run's folder. A resumed run continues the same one.

    Where the server fails after the run has begun, that is reported once, and nothing more is sent.

    Raises:
        InputError: the package is missing, or a new run cannot be created there.
    """

    def __init__(self, run: Path, experiment: str, settings: Mapping[str, Any]):
        check_mlflow(experiment)
        os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
        from mlflow import MlflowClient

        self.run, self.failed, id_file = run, False, run / RUN_ID
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or (run / STORE).absolute().as_uri()
        self.client = MlflowClient(tracking_uri=self.uri)
        if id_file.is_file():
            self.run_id = id_file.read_text(encoding="utf-8").strip()
            self._send("update_run", status="RUNNING")
            return
        try:
            self.run_id = self._create_run(experiment, settings)
        except Exception as error:  # a server, a proxy or their libraries can raise anything
            raise InputError(
                f"MLflow {self._describe(error)}; set MLFLOW_TRACKING_URI, or leave --train.mlflow out"
            ) from error
        write_text(id_file, f"{self.run_id}\n")

    def _create_run(self, experiment: str, settings: Mapping[str, Any]) -> str:
        """Return the id of a new run that has its settings."""
        from mlflow.entities import Param

        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self.client.create_experiment(experiment)
        run_id = self.client.create_run(number, run_name=self.run.absolute().name).info.run_id
        params = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in settings.items()]
        self.client.log_batch(run_id, params=params)
        return run_id

    def metrics(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of an epoch."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        named = [Metric(re.sub(r"[^\w\-. :/]", "_", name), float(value), now, step) for name, value in numbers.items()]
        self._send("log_batch", metrics=named)

    def close(self) -> None:
        """Send the configuration and the summary, and set the status to the summary's."""
        for path in (self.run / CONFIG, self.run / SUMMARY):
            if path.is_file():
                self._send("log_artifact", str(path))
        state = read_json(self.run / SUMMARY)["state"] if (self.run / SUMMARY).is_file() else "failed"
        self._send("set_terminated", MLFLOW_STATUS.get(state, "FAILED"))

    def _send(self, call: str, *given: Any, **named: Any) -> None:
        """Make a call about this run, unless one has failed before; report a failure."""
        if self.failed:
            return
        try:
            getattr(self.client, call)(self.run_id, *given, **named)
        except Exception as error:
            self.failed = True
            logger.warning(f"MLflow {self._describe(error)}; training continues without it, see log.jsonl")

    def _describe(self, error: Exception) -> str:
        """Return the server and its failure, without any password."""
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return re.sub(r"//[^/@\s]*@", "//", f"at {self.uri} failed ({reason})")
