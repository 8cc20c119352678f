"""Tests of the client: lost answers, half answers, TLS, logins, and which refusals mean that the server is away."""

from __future__ import annotations

import base64
import shutil
import subprocess
import threading

import pytest

from tests.inference.orthanc.fake_server import refuse, serving
from tests.inference.orthanc.stand_in import cine
from unet4d.errors import InputError
from unet4d.inference.orthanc.client import Denied, OrthancClient, Rejected, ServerAway


@pytest.fixture
def server():
    with serving() as fake:
        yield fake


def test_metadata_are_written_by_one_of_two_that_saw_the_same(server):
    path, client = f"/series/{server.add(*cine('anna'))}", OrthancClient(server.url)
    assert client.metadata(path, 5000) is None
    first = client.swap_metadata(path, 5000, "first", None)
    assert first
    assert client.swap_metadata(path, 5000, "second", None) is None
    assert client.swap_metadata(path, 5000, "third", first)
    assert client.swap_metadata(path, 5000, "fourth", first) is None
    assert client.metadata(path, 5000)[0] == "third"


def test_of_many_threads_one_writes(server):
    path, etags = f"/series/{server.add(*cine('anna'))}", []
    client, together = OrthancClient(server.url), threading.Barrier(8)

    def write(number):
        together.wait(timeout=30)
        etags.append(client.swap_metadata(path, 5000, f"value {number}", None))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(etag is not None for etag in etags) == 1


@pytest.mark.parametrize("is_used", [False, True])
def test_a_write_whose_answer_is_lost_is_recognized_as_done(server, is_used):
    path, client, lost = f"/series/{server.add(*cine('anna'))}", OrthancClient(server.url), []
    server.faults = lambda method, _, when: "drop" if method == "PUT" and when == "after" and not lost else None
    if is_used:
        client.system()  # a connection that was used is opened again, and the request repeated
        server.faults = lambda method, _, when: (
            "drop" if method == "PUT" and when == "after" and not lost and not lost.append(1) else None
        )
        assert client.swap_metadata(path, 5000, "mine", None)
    else:
        with pytest.raises(ServerAway):
            client.swap_metadata(path, 5000, "mine", None)
        server.faults = lambda *given: None
        assert client.swap_metadata(path, 5000, "mine", None)  # tried again


def test_a_file_that_ends_early_is_no_file(server, tmp_path):
    server.add(*cine("anna"))
    client, (name, whole) = OrthancClient(server.url), next(iter(server.files.items()))
    client.download(name, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == whole
    server.faults = lambda method, path, when: "half" if path.endswith("/file") else None
    with pytest.raises(ServerAway, match="does not answer"):
        client.download(name, tmp_path / "file")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, 0, ServerAway), (507, 19, ServerAway), (500, 14, ServerAway), (500, 1009, ServerAway), (500, 11, ServerAway),
        (500, 0, Rejected), (500, 2, Rejected), (400, 15, Rejected), (413, 0, Rejected), (403, 0, Denied),
    ],
)  # fmt: skip
def test_refusals_are_of_the_request_or_of_the_whole_server(server, status, code, kind):
    server.faults = refuse("system", status, code)
    with pytest.raises(kind, match=f"HTTP {status}"):
        OrthancClient(server.url).system()


def test_no_server_is_a_server_that_is_away():
    with serving() as fake:
        url = fake.url
    with pytest.raises(ServerAway, match="does not answer"):
        OrthancClient(url).system()


def test_a_login_is_sent_and_a_wrong_one_is_reported_without_it(server):
    server.login = "Basic " + base64.b64encode(b"anna:se:cret").decode()
    assert OrthancClient(server.url, ("anna", "se:cret")).system()["CheckRevisions"]
    with pytest.raises(Denied, match="HTTP 401") as error:
        OrthancClient(server.url, ("anna", "wrong-one")).system()
    assert isinstance(error.value, InputError)
    assert "wrong-one" not in str(error.value)


@pytest.mark.parametrize("url", ["http://anna:secret@host", "ftp://host", "http://", "host:8042", "http://host:port"])
def test_an_address_that_is_none_or_names_a_user_is_refused_without_the_password(url):
    with pytest.raises(InputError) as error:
        OrthancClient(url)
    assert "secret" not in str(error.value)


def test_results_are_deleted_only_in_their_own_study(server):
    client, images = OrthancClient(server.url), cine("anna")
    series = server.add(*images)
    copies = cine("anna", StudyInstanceUID="1.2.3", PatientID="other")
    other = server.add(*copies)
    client.delete_instances(server.study_of(series), images[0].SOPInstanceUID)
    assert (len(server.series(series)["Instances"]), len(server.series(other)["Instances"])) == (3, 4)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is missing")
def test_a_certificate_is_checked_against_the_authorities_that_are_given(tmp_path):
    file = tmp_path / "own.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext "
        f"subjectAltName=DNS:localhost -keyout {tmp_path}/key -out {tmp_path}/cert".split(),
        check=True,
        capture_output=True,
    )
    file.write_text((tmp_path / "cert").read_text() + (tmp_path / "key").read_text())
    with serving(file) as fake:
        assert OrthancClient(fake.url, ca_file=tmp_path / "cert").system()["CheckRevisions"]
        with pytest.raises(InputError, match="--ca_file"):
            OrthancClient(fake.url).system()
    with pytest.raises(InputError, match="no certificates"):
        OrthancClient("https://localhost", ca_file=tmp_path / "key")


def test_all_series_come_page_by_page(server, monkeypatch):
    monkeypatch.setattr("unet4d.inference.orthanc.client._PAGE", 2)
    names = {server.add(*cine(f"p{i}")[:1]) for i in range(5)}
    found = list(OrthancClient(server.url).all_series())
    assert {one.id for one in found} == names
    assert len(found) == 5
