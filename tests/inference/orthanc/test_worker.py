"""Tests of the worker on a server in this process: every series is answered once, whatever fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from tests.inference.orthanc.fake_server import FakeOrthanc, refuse, serving
from tests.inference.orthanc.stand_in import RESULTS, cine, digest_of, stand_in, uid
from unet4d.errors import InputError, Stopped, Unet4DError
from unet4d.inference.orthanc import worker as worker_module
from unet4d.inference.orthanc.claims import Claim, ClaimOptions, Record, take_claim
from unet4d.inference.orthanc.client import OrthancClient
from unet4d.inference.orthanc.rules import Rule
from unet4d.inference.orthanc.survey import report_plan, report_status
from unet4d.inference.orthanc.tasks import task_of
from unet4d.inference.orthanc.worker import OrthancWorker, Outcome, WorkerOptions
from unet4d.system.lock import exclusive_lock
from unet4d.system.signals import check_stop

RULES = (Rule("sax", (Path("run"),), description="sax"),)
ONCE = WorkerOptions(settle_s=0.0, once=True, patience_s=0.0)


@pytest.fixture
def server():
    with serving() as fake:
        yield fake


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Return the pauses that a worker makes; none takes time."""
    found: list[float] = []
    monkeypatch.setattr(worker_module, "_rest", found.append)
    return found


def work(server: FakeOrthanc, answer=stand_in, options: WorkerOptions = ONCE, rules=RULES) -> Outcome:
    return OrthancWorker(OrthancClient(server.url), rules, answer, options).run()


def record_of(server: FakeOrthanc, path: str) -> Record:
    return Record.of_text(server.metadata[path, "4242"], path)


def assert_answered(server: FakeOrthanc, *names: str) -> None:
    """See that each series of these has one whole answer on the server, made of all its images, and no other object is there."""
    results = server.of_modality("OT")
    for name in names:
        images = server.series(name)["Instances"]
        wanted = digest_of([server.headers[one].SOPInstanceUID for one in images])
        own = [one for one in results if one.ImageComments == wanted]
        record = record_of(server, f"/series/{name}")
        assert (record.state, sorted(record.results)) == ("done", sorted(one.SOPInstanceUID for one in own))
        assert len(own) == RESULTS
        assert {one.StudyInstanceUID for one in own} == {server.headers[images[0]].StudyInstanceUID}
    assert len(results) == RESULTS * len(names)


def test_each_series_is_answered_once_and_others_are_ignored_with_the_reason(server, caplog):
    caplog.set_level(logging.INFO)
    names = [server.add(*cine(name)) for name in ("anna", "ben")]
    scout, report = server.add(*cine("anna", series="scout")), server.add(*cine("ben", series="x", Modality="SR"))
    found = work(server)
    assert (len(found.answered), found.failed, found.left) == (2, {}, {})
    assert_answered(server, *names)
    assert f"series {scout}: ignored, sax: SeriesDescription does not match 'sax'" in caplog.text
    assert f"series {report}: ignored, sax: Modality is not MR" in caplog.text
    stored = len(server.files)
    assert work(server, answer=None).answered == []
    assert len(server.files) == stored


def test_results_are_no_input_even_where_every_series_is_wanted(server):
    name = server.add(*cine("anna"))
    rules = (Rule("all", (Path("run"),), modality=None),)
    assert len(work(server, rules=rules).answered) == 1
    assert work(server, answer=None, rules=rules).answered == []
    assert_answered(server, name)


def test_a_series_that_grew_is_answered_again_and_its_former_results_are_deleted(server):
    first, *rest = cine("anna", frames=3)
    name = server.add(first, *rest[:3])
    work(server)
    former = {header.SOPInstanceUID for header in server.of_modality("OT")}
    server.add(*rest[3:])
    work(server)
    assert_answered(server, name)
    assert not former & {header.SOPInstanceUID for header in server.of_modality("OT")}


def test_images_that_arrive_during_the_work_begin_it_anew_and_nothing_is_stored_before(server):
    images, calls = cine("anna", frames=3), []
    name = server.add(*images[:4])

    def growing(*given):
        if not calls:
            server.add(*images[4:])
        calls.append(len(list(given[0].iterdir())))
        return stand_in(*given)

    work(server, growing)
    assert calls == [4, 6]
    assert server.asked.count(("POST", "/instances")) == RESULTS
    assert_answered(server, name)


def test_a_series_waits_until_no_image_arrives_any_more(server):
    name = server.add(*cine("anna"))
    options = replace(ONCE, settle_s=60.0)
    server.advance(59)
    assert list(work(server, None, options).left) == [name]
    server.advance(1)
    server.unstable = {name}
    assert list(work(server, None, options).left) == [name]
    server.unstable = set()
    work(server, options=options)
    assert_answered(server, name)


def test_a_failure_is_tried_again_later_and_then_recorded_while_the_others_go_on(server):
    bad, good = server.add(*cine("bad")), server.add(*cine("good"))

    def answer(folder, out, models):
        files = stand_in(folder, out, models)
        if len(server.headers) and "bad" in str(files[0].read_bytes()):
            raise Unet4DError("the wrong channels")
        return files

    for tries, wait_s in ((1, 60), (2, 240)):
        found = work(server, answer)
        assert list(found.failed.values()) == ["the wrong channels"]
        assert record_of(server, f"/series/{bad}").failures == tries
        assert list(work(server, None).left) == [bad]  # not yet
        server.advance(wait_s)
    assert list(work(server, answer).failed) == [f"series {bad}"]
    record = record_of(server, f"/series/{bad}")
    assert (record.state, record.failures, record.reason) == ("failed", 3, "the wrong channels")
    assert work(server, None) == Outcome()
    assert_answered(server, good)
    again = replace(ONCE, claims=ClaimOptions(retry_failed=True))
    assert len(work(server, options=again).answered) == 1
    assert_answered(server, bad, good)


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_server_that_rejects_a_result_keeps_no_part_of_an_answer(server, status):
    name = server.add(*cine("anna"))
    posts = []

    def second_is_refused(method, path, when):
        if (method, path, when) == ("POST", "/instances", "before"):
            posts.append(path)
            return (status, 0) if len(posts) % RESULTS == 0 else None
        return None

    server.faults = second_is_refused
    for _ in range(3):
        found = work(server)
        assert f"HTTP {status}" in found.failed[f"series {name}"]
        server.advance(1000)
    assert record_of(server, f"/series/{name}").state == "failed"
    assert server.of_modality("OT") == []


@pytest.mark.parametrize(("status", "code"), [(503, 0), (507, 19), (500, 14), (500, 1009)])
def test_a_server_that_is_away_or_full_is_waited_for_and_no_failure_is_counted(server, pauses, caplog, status, code):
    name = server.add(*cine("anna"))
    server.faults = refuse("POST /instances", status, code, times=3)
    work(server, options=replace(ONCE, patience_s=None))
    assert pauses == [1.0, 2.0, 4.0]
    assert caplog.text.count("cannot work now") == 3
    assert record_of(server, f"/series/{name}").failures == 0
    assert_answered(server, name)


def test_a_server_that_stays_away_ends_a_single_round(server, pauses):
    server.faults = refuse("system", 503)
    with pytest.raises(Unet4DError, match="gave up"):
        work(server)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_here_puts_the_series_back(server, wrapped):
    name = server.add(*cine("anna"))

    def full(*given):
        error = OSError(errno.ENOSPC, "No space left on device")
        if wrapped:
            raise Unet4DError("could not write x") from error
        raise error

    assert list(work(server, full).left) == [name]
    record = record_of(server, f"/series/{name}")
    assert (record.state, record.failures, record.crashes) == ("waiting", 0, 0)
    server.advance(60)
    work(server)
    assert_answered(server, name)


def test_the_series_of_a_killed_worker_waits_for_the_end_of_its_lease(server):
    name = server.add(*cine("anna"))
    client = OrthancClient(server.url)
    task = task_of(client, client.series(name), RULES)
    assert isinstance(take_claim(client, task.path, task.digest, "sax", ClaimOptions()), Claim)
    server.advance(119)
    assert list(work(server, None).left) == [name]
    server.advance(1)
    work(server)
    assert record_of(server, f"/series/{name}").crashes == 1
    assert_answered(server, name)


def test_a_series_that_kills_its_workers_is_given_up(server):
    name = server.add(*cine("anna"))
    client = OrthancClient(server.url)
    task = task_of(client, client.series(name), RULES)
    for _ in range(10):
        assert isinstance(take_claim(client, task.path, task.digest, "sax", ClaimOptions()), Claim)
        server.advance(121)
    assert work(server, None).answered == []
    record = record_of(server, f"/series/{name}")
    assert (record.state, record.crashes) == ("failed", 10)
    assert "ended 10 times" in record.reason


def test_results_of_a_killed_worker_that_are_not_in_the_answer_are_deleted(server):
    name = server.add(*cine("anna"))

    def other(folder, out, models):
        files = stand_in(folder, out, models)
        raise_after_storing.append(files)
        return files

    raise_after_storing: list = []

    def killed(method, path, when):
        if raise_after_storing and (method, path, when) == ("POST", "/instances", "after"):
            raise_after_storing.append(1)
        return (507, 19) if len(raise_after_storing) > 1 else None  # stored, and then the worker hears nothing any more

    server.faults = killed
    with pytest.raises(Unet4DError, match="gave up"):
        work(server, other)
    server.faults = lambda *given: None
    assert len(server.of_modality("OT")) == 1
    server.add(*cine("anna", frames=3)[4:])  # the series grows: the answer is another one
    server.advance(121)
    work(server)
    assert_answered(server, name)


def test_two_workers_at_once_share_the_series(server):
    names = [server.add(*cine(f"patient{i}")) for i in range(6)]
    both, calls, outcomes = threading.Barrier(2), [], []

    def answer(folder, out, models):
        if len(calls) < 2:
            calls.append(folder)
            both.wait(timeout=30)  # both work at the same time
        else:
            calls.append(folder)
        return stand_in(folder, out, models)

    threads = [threading.Thread(target=lambda: outcomes.append(work(server, answer))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 6
    assert sorted(name for one in outcomes for name in one.answered) == sorted(f"series {name}" for name in names)
    assert all(one.answered for one in outcomes)
    assert_answered(server, *names)


def test_a_worker_whose_lease_ran_out_stores_nothing(server):
    name = server.add(*cine("anna"))

    def slow(*given):
        server.advance(121)  # and its thread that renews was asleep, too
        assert len(work(server).answered) == 1
        return stand_in(*given)

    found = work(server, slow)
    assert found.answered == []
    assert sum(request == ("POST", "/instances") for request in server.asked) == RESULTS
    assert_answered(server, name)


def test_a_lease_is_renewed_while_the_work_lasts(server):
    name = server.add(*cine("anna"))
    renewed = threading.Event()

    def seen(method, path, when):
        if method == "PUT" and when == "after" and record_of(server, f"/series/{name}").until > first[0]:
            renewed.set()

    first = ["9"]

    def slow(*given):
        first[0] = record_of(server, f"/series/{name}").until
        server.advance(1)
        assert renewed.wait(timeout=30)
        return stand_in(*given)

    server.faults = seen
    work(server, slow, replace(ONCE, claims=ClaimOptions(lease_s=1.0)))
    assert_answered(server, name)


def test_a_signal_gives_the_series_back_at_once(server):
    name = server.add(*cine("anna"))

    def stopped(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        check_stop()

    with pytest.raises(Stopped):
        work(server, stopped)
    record = record_of(server, f"/series/{name}")
    assert (record.state, record.until, record.failures, record.crashes) == ("waiting", server.now(), 0, 0)
    work(server)
    assert_answered(server, name)


def test_series_of_a_study_that_a_rule_joins_are_answered_together(server):
    slices = [server.add(*cine("anna", series=f"sax {z}", StudyInstanceUID=uid("anna"))) for z in range(3)]
    server.add(*cine("anna", series="scout", StudyInstanceUID=uid("anna")))
    counts = []

    def answer(folder, out, models):
        counts.append(len(list(folder.iterdir())))
        return stand_in(folder, out, models)

    rules = (replace(RULES[0], join="study"),)
    assert len(work(server, answer, rules=rules).answered) == 1
    study = server.study_of(slices[0])
    assert (counts, record_of(server, f"/studies/{study}").state) == ([12], "done")
    assert work(server, None, rules=rules) == Outcome()
    server.add(*cine("anna", series="sax 3", StudyInstanceUID=uid("anna")))
    work(server, answer, rules=rules)
    assert counts == [12, 16]
    assert len(server.of_modality("OT")) == RESULTS


def test_a_result_of_another_study_is_not_stored(server):
    name = server.add(*cine("anna"))

    def wrong(folder, out, models):
        for file in folder.iterdir():
            file.unlink()
        for number, image in enumerate(cine("ben")):
            image.save_as(folder / f"{number:06d}.dcm", enforce_file_format=True)
        files = stand_in(folder, out, models)
        cine("anna")[0].save_as(folder / "000000.dcm", enforce_file_format=True)
        return files

    assert "another PatientID" in work(server, wrong).failed[f"series {name}"]
    assert server.of_modality("OT") == []


def test_metadata_of_something_else_are_left_alone(server, caplog):
    name, other = server.add(*cine("anna")), server.add(*cine("ben"))
    server.metadata[f"/series/{name}", "4242"] = "mine"
    assert "--state_key" in work(server).failed[f"series {name}"]
    assert server.metadata[f"/series/{name}", "4242"] == "mine"
    assert_answered(server, other)


def test_a_server_without_revisions_is_refused(server):
    server.check_revisions = False
    with pytest.raises(InputError, match="CheckRevisions"):
        work(server)


def test_old_series_are_ignored_where_that_is_asked_for(server):
    server.add(*cine("anna"))
    server.advance(3 * 86400)
    new = server.add(*cine("ben"))
    work(server, options=replace(ONCE, max_age_days=2.0))
    assert_answered(server, new)


def test_no_identifier_is_printed_unless_asked_for(server, caplog):
    caplog.set_level(logging.DEBUG)
    images = cine("anna", AccessionNumber="ACC-0815")
    name = server.add(*images)
    server.add(*cine("ben", series="scout of Secret"))
    secrets = [images[0].PatientID, "Secret", "ACC-0815", images[0].SeriesInstanceUID, "cine sax", "19640812"]

    def failing(folder, out, models):
        logging.getLogger("unet4d.images").warning(f"series 7 (cine sax) of {images[0].PatientName}")
        raise Unet4DError(f"no good: {', '.join(map(str, secrets))}")

    work(server, failing)
    report_status(OrthancClient(server.url), RULES, ONCE)
    report_plan(OrthancClient(server.url), RULES, ONCE)
    held = caplog.text + json.dumps(list(server.metadata.values()))
    assert [secret for secret in secrets if secret in held] == []
    assert "no good: [removed]" in held
    server.advance(60)
    work(server, failing, replace(ONCE, log_identifiers=True))
    assert f"series {name} (PID-anna, cine sax, {images[0].SeriesInstanceUID})" in caplog.text


def test_plan_and_status_show_everything_and_write_nothing(server, caplog):
    caplog.set_level(logging.INFO)
    done, todo, bad = (server.add(*cine(name)) for name in ("done", "todo", "bad"))
    scout = server.add(*cine("done", series="scout"))

    def answer(folder, out, models):
        files = stand_in(folder, out, models)
        if "PID-done" not in str(files[0].read_bytes()):
            raise Unet4DError("broken")
        return files

    work(server, answer, replace(ONCE, claims=ClaimOptions(attempts=1)))
    del server.metadata[f"/series/{todo}", "4242"]
    held, asked = dict(server.metadata), len(server.asked)
    caplog.clear()
    client = OrthancClient(server.url)
    report_plan(client, RULES, ONCE)
    assert f"would run\tseries {todo}\t4 instances, rule 'sax', model run" in caplog.text
    assert f"done\tseries {done}\t2 results" in caplog.text
    assert f"failed\tseries {bad}\tbroken" in caplog.text
    assert f"ignored\tseries {scout}\tsax: SeriesDescription" in caplog.text
    assert "1 to do, 0 to do later, 1 answered, 1 failed, " in caplog.text
    caplog.clear()
    report_status(client, RULES, ONCE)
    queue, results, failures = (caplog.messages.index(f"{title}:") for title in ("queue", "last results", "failures"))
    assert todo in caplog.messages[queue + 1]
    assert done in caplog.messages[results + 1]
    assert bad in caplog.messages[failures + 1]
    assert server.metadata == held
    assert {method for method, _ in server.asked[asked:]} == {"GET"}


def test_a_worker_follows_what_arrives_until_a_signal_comes(server):
    names, came = [server.add(*cine("anna"))], threading.Event()

    def answer(folder, out, models):
        if len(names) == 1:
            names.append(server.add(*cine("ben")))
        else:
            came.set()
        return stand_in(folder, out, models)

    def stop(method, path, when):
        if came.is_set() and path.startswith("/changes?since"):
            came.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    server.faults = stop
    with pytest.raises(Stopped):
        work(server, answer, WorkerOptions(settle_s=0.0, poll_s=0.01))
    assert_answered(server, *names)


def test_what_arrives_goes_before_what_was_there(server):
    old, order = [server.add(*cine(f"old{number}")) for number in range(3)], []

    def answer(folder, out, models):
        if not order:
            order.append(server.add(*cine("new")))
        order.append(pydicom.dcmread(next(folder.iterdir())).PatientID)
        return stand_in(folder, out, models)

    work(server, answer)
    assert [name for name in order[1:] if name.startswith("PID")].index("PID-new") == 1
    assert_answered(server, *old, order[0])


def test_what_a_server_forgot_or_deleted_is_found_or_dropped(server, pauses):
    gone, name = server.add(*cine("anna")), server.add(*cine("ben"))

    def deleting(folder, out, models):
        files = stand_in(folder, out, models)
        for one in [one for one, header in server.headers.items() if header.PatientID == "PID-anna"]:
            server.headers.pop(one)
        server.changes.clear()  # as after a change of its database
        return files

    found = work(server, deleting)
    assert found.failed == {}
    assert gone not in found.left
    assert_answered(server, name)


def test_an_odd_refusal_of_one_series_leaves_the_others_alone(server):
    name, other = server.add(*cine("anna")), server.add(*cine("ben"))
    server.faults = refuse(f"GET /series/{name}$", 500)
    found = work(server)
    assert list(found.left) == [name]
    assert_answered(server, other)


def test_folders_of_killed_workers_are_removed_and_those_of_others_stay(server, tmp_path):
    server.add(*cine("anna"))
    for name in ("unet4d-orthanc-dead", "unet4d-orthanc-busy"):
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        stack.enter_context(exclusive_lock(tmp_path / "unet4d-orthanc-busy"))
        work(server, options=replace(ONCE, scratch_dir=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["unet4d-orthanc-busy"]
