"""The optional log in MLflow: settings once, numbers per epoch, and how the run ended."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.system.files import read_json, write_text
from unet4d.training.monitoring.summary import SUMMARY

logger = logging.getLogger(__name__)

RUN_ID, STORE = "mlflow_run_id", "mlruns"
_STATUS = {"finished": "FINISHED", "stopped": "KILLED"}
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

    The first failure is reported; the training goes on, and nothing more is sent. Raises InputError: the package is missing.
    """

    def __init__(self, run: Path, experiment: str, settings: Mapping[str, Any]):
        check_mlflow(experiment)
        os.environ.update(_ENVIRONMENT | os.environ)
        import mlflow

        self.mlflow, self.run, self.failed = mlflow, run, False
        self.own_store = not os.environ.get("MLFLOW_TRACKING_URI")
        self._try(lambda: self._start(experiment, settings))

    def _start(self, experiment: str, settings: Mapping[str, Any]) -> None:
        """Begin a run in MLflow, or continue the one that the run's folder names."""
        id_file = self.run / RUN_ID
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else None
        if self.own_store:
            self.mlflow.set_tracking_uri((self.run / STORE).absolute().as_uri())
        self.mlflow.set_experiment(experiment)
        started = self.mlflow.start_run(run_id, run_name=self.run.absolute().name, nested=True)  # in a caller's own run
        if run_id is None:
            self.mlflow.log_params(settings)
            write_text(id_file, f"{started.info.run_id}\n")

    def metrics(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of an epoch."""
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in numbers.items()}
        self._try(lambda: self.mlflow.log_metrics(named, step))

    def close(self) -> None:
        """Set the status to that of the run's summary."""
        state = read_json(self.run / SUMMARY)["state"] if (self.run / SUMMARY).is_file() else "failed"
        self._try(lambda: self.mlflow.end_run(_STATUS.get(state, "FAILED")))
        if self.own_store:
            self.mlflow.set_tracking_uri(
                None
            )  # which sets MLFLOW_TRACKING_URI, too: the next run has a store of its own

    def _try(self, send: Callable[[], Any]) -> None:
        """Send something, unless that has failed before; report a failure, without any password."""
        try:
            if not self.failed:
                send()
        except Exception as error:  # a server, a proxy or their libraries can raise anything
            self.failed = True
            reason = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split())[:200])
            logger.warning(
                f"MLflow failed ({reason or type(error).__name__}); training continues without it, see log.jsonl"
            )
