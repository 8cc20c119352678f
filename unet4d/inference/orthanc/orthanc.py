"""`unet4d orthanc`: the series of an Orthanc server in, DICOM results in their studies out; or what would be done, and what was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unet4d.inference.orthanc.answer import RESULT_FORMATS, predict_answer
from unet4d.inference.orthanc.client import OrthancClient
from unet4d.inference.orthanc.rules import read_rules
from unet4d.inference.orthanc.survey import report_plan, report_status
from unet4d.inference.orthanc.worker import OrthancWorker, Outcome, WorkerOptions
from unet4d.system.files import PathLike

if TYPE_CHECKING:
    from unet4d.inference.options import InferenceOptions


def orthanc(
    model: Sequence[PathLike],
    client: OrthancClient,
    rules: PathLike | None = None,
    options: WorkerOptions | None = None,
    inference: InferenceOptions | None = None,
    *,
    device: str = "auto",
    formats: Sequence[str] = RESULT_FORMATS,
    postprocess: Literal["auto", "off"] = "auto",
    dicom_terms: PathLike | None = None,
    show: Literal["plan", "status"] | None = None,
) -> Outcome:
    """Answer the series of a server, until a signal comes, or, with `options.once`, until nothing is left that can be done now.

    Args:
        model: run folders or checkpoint files, for the rules that name none.
        client: of the server.
        rules: file of rules; None: every MR series is segmented by `model`.
        options: leases, waits, tries.
        inference: how series are segmented, as of `predict`.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        formats: of the results.
        postprocess: as of `predict`.
        dicom_terms: as of `predict`.
        show: log what would be done with each series, or the queue and the last results, and write nothing.

    Returns:
        What was answered, what failed, and what is left for later.

    Raises:
        InputError: the rules cannot be read; the server's settings do not fit, or it refuses the user.
        Stopped: SIGTERM or SIGINT came.
        Unet4DError: the server was away for longer than the patience; the GPU answers nothing more.
    """
    read, options = (
        read_rules(Path(rules) if rules else None, [Path(path) for path in model]),
        options or WorkerOptions(),
    )
    if show is not None:
        (report_plan if show == "plan" else report_status)(client, read, options)
        return Outcome()
    answer = predict_answer(inference, device, formats, postprocess, dicom_terms)
    return OrthancWorker(client, read, answer, options).run()
