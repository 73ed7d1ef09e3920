"""Https: the certificate of a server, those of its clients, and what is wrong with files."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from support.command_line import refused, run
from support.servers import LATEST_S, served, until
from taskfold import Engine
from taskfold.errors import ServeError
from taskfold.http import App, running
from taskfold.http.serve.regions import Peers
from taskfold.http.serve.server import Server, check_exposure
from taskfold.http.serve.tls import TlsFiles

ID = "aaaaaaaa-0000-0000-0000-000000000000"


class Certificates:
    """The files of an authority, of a server, and of a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.cert, self.key = self.issue("server", "127.0.0.1", "localhost")
        self.client_cert, self.client_key = self.issue("client", "client.example")

    def issue(self, name: str, *names: str, **more: object) -> tuple[str, str]:
        """Return the files of a new certificate and of its key."""
        leaf = self.authority.issue_cert(*names, **more)  # type: ignore[arg-type]  # as trustme takes them
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(key))
        return str(cert), str(key)

    def trusting(self, *, is_certified: bool = False) -> ssl.SSLContext:
        """Return the context of a client that knows the authority."""
        context = ssl.create_default_context(cafile=self.ca)
        if is_certified:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context

    @property
    def environment(self) -> dict[str, str]:
        """The variables of Nomad's command that name the files of a client."""
        return {
            "NOMAD_CACERT": self.ca,
            "NOMAD_CLIENT_CERT": self.client_cert,
            "NOMAD_CLIENT_KEY": self.client_key,
        }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def app_of(**more: object) -> App:
    engine = Engine(dialect="1.1.2")
    engine.place({"ID": ID, "JobID": "job", "Namespace": "default"})
    return App(engine, **more)  # type: ignore[arg-type]  # as the tests name them


def asked(url: str, context: ssl.SSLContext, path: str = "/v1/allocations") -> httpx.Response:
    with httpx.Client(verify=context, timeout=LATEST_S, trust_env=False) as client:
        client.get(url + path)  # the second answer is one that is kept
        return client.get(url + path)


@pytest.fixture
def mutual(files: Certificates) -> Iterator[Server]:
    """Serve clients with certificates."""
    with running(app_of(hosts=None, region="eu"), tls=TlsFiles(files.cert, files.key, files.ca)) as server:
        yield server


# --- what is served to whom ---


def test_a_server_with_a_certificate_speaks_https_and_nothing_else(files: Certificates) -> None:
    with running(app_of(), tls=TlsFiles(files.cert, files.key)) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        assert [stub["ID"] for stub in asked(server.url, files.trusting()).json()] == [ID]
        with pytest.raises(httpx.HTTPError):
            httpx.get(server.url.replace("https", "http"), timeout=LATEST_S)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            asked(server.url, ssl.create_default_context())


def test_a_client_with_a_certificate_of_the_authority_is_answered_by_any_name(
    files: Certificates, mutual: Server
) -> None:
    context = files.trusting(is_certified=True)
    for path in ("/v1/allocations", f"/v1/allocation/{ID}", "/v1/agent/health"):
        assert asked(mutual.url, context, path).status_code == 200
    answer = httpx.get(f"{mutual.url}/v1/allocations", headers={"Host": "tasks.example"}, verify=context)
    assert answer.status_code == 200


def test_a_client_of_another_authority_is_answered_nothing(files: Certificates, mutual: Server) -> None:
    context = files.trusting()
    trustme.CA().issue_cert("client.example").configure_cert(context)
    with pytest.raises(httpx.TransportError):
        asked(mutual.url, context)


def test_a_probe_of_this_machine_without_a_certificate_is_told_of_health_alone(
    files: Certificates, mutual: Server
) -> None:
    certified, plain = files.trusting(is_certified=True), files.trusting()
    assert asked(mutual.url, plain, "/v1/agent/health").status_code == 200
    for path in ("/v1/allocations", f"/v1/allocation/{ID}", "/", "/v1/nothing", "/v1/metrics"):
        asked(mutual.url, certified, path)  # what is kept is kept for clients with certificates
        answer = asked(mutual.url, plain, path)
        assert (answer.status_code, answer.text) == (
            403,
            "this server answers clients with a certificate, and without one about its health alone",
        )


def test_another_machine_without_a_certificate_is_told_nothing(
    files: Certificates, mutual: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskfold.http.serve.protocol.is_loopback", lambda _: False)

    answer = httpx.get(f"{mutual.url}/v1/agent/health", verify=files.trusting())
    assert (answer.status_code, answer.text) == (403, "this server takes requests of clients with a certificate alone")
    assert asked(mutual.url, files.trusting(is_certified=True)).status_code == 200


def test_a_token_is_asked_for_beside_a_certificate(files: Certificates) -> None:
    context = files.trusting(is_certified=True)
    with running(app_of(token="secret"), tls=TlsFiles(files.cert, files.key, files.ca)) as server:
        assert asked(server.url, context).status_code == 403
        headers = {"X-Nomad-Token": "secret"}
        assert httpx.get(f"{server.url}/v1/allocations", headers=headers, verify=context).status_code == 200
        assert httpx.get(f"{server.url}/v1/allocations", headers=headers, verify=files.trusting()).status_code == 403


def test_a_server_that_others_can_reach_needs_a_token_or_certificates_of_its_clients() -> None:
    check_exposure("192.168.1.5", None, TlsFiles("a", "b", "ca"))
    with pytest.raises(ServeError, match="--tls-client-ca"):
        check_exposure("192.168.1.5", None, TlsFiles("a", "b"))
    with pytest.raises(ServeError, match="is no network"):
        check_exposure("unix:/run/taskfold.sock", None, TlsFiles("a", "b"))


# --- files ---


def with_text(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def encrypted(files: Certificates, folder: Path) -> str:
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"secret")
    file = folder / "encrypted.key"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, lock)
    )
    return str(file)


def test_files_that_cannot_be_used_are_told(files: Certificates, tmp_path: Path) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    old, old_key = files.issue("old", "127.0.0.1", not_before=yesterday - timedelta(days=1), not_after=yesterday)
    early, early_key = files.issue("early", "127.0.0.1", not_before=yesterday + timedelta(days=2))
    torn = with_text(tmp_path, "torn.pem", "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    missing, text = str(tmp_path / "missing.pem"), with_text(tmp_path, "text", "hello")

    def problem(cert: str = files.cert, key: str = files.key, client_ca: str = "") -> str:
        with pytest.raises(ServeError) as told:
            TlsFiles(cert, key, client_ca).server_context()
        return str(told.value)

    assert problem(cert=missing) == f"{missing}: the certificate cannot be read: No such file or directory"
    assert problem(key=missing) == f"{missing}: the key cannot be read: No such file or directory"
    assert problem(client_ca=missing) == f"{missing}: the certificate cannot be read: No such file or directory"
    assert problem(key=str(tmp_path)) == f"{tmp_path}: the key cannot be read: Is a directory"
    assert problem(cert=text) == f"{text}: has no certificate in PEM, which begins with -----BEGIN"
    assert problem(key=text) == f"{text}: has no key in PEM, which begins with -----BEGIN"
    assert problem(client_ca=files.key) == f"{files.key}: has no certificate in PEM, which begins with -----BEGIN"
    assert problem(cert=torn).startswith(f"{torn} and {files.key} cannot be used: ")
    assert problem(client_ca=torn).startswith(f"{torn}: cannot be used: ")
    assert problem(key=old_key) == f"{old_key}: the key is not that of the certificate in {files.cert}"
    locked = encrypted(files, tmp_path)
    assert problem(key=locked) == f"{locked}: the key is encrypted: give one without a passphrase"
    assert problem(old, old_key) == f"{old}: no client would take the certificate: certificate has expired"
    assert problem(early, early_key) == f"{early}: no client would take the certificate: certificate is not yet valid"


def test_a_certificate_and_its_key_may_be_one_file_and_sign_itself(files: Certificates, tmp_path: Path) -> None:
    leaf = files.authority.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    TlsFiles(str(tmp_path / "both.pem"), str(tmp_path / "both.pem")).server_context()
    files.authority.private_key_pem.write_to_path(str(tmp_path / "ca.key"))
    TlsFiles(files.ca, str(tmp_path / "ca.key")).server_context()


def test_options_that_do_not_belong_together_are_refused(files: Certificates, tmp_path: Path) -> None:
    cert, key, ca = ("--tls-cert", files.cert), ("--tls-key", files.key), ("--tls-client-ca", files.ca)
    unix = f"unix:{tmp_path / 'socket'}"

    refused(run("serve", *cert), "--tls-cert and --tls-key belong together")
    refused(run("serve", *key), "--tls-cert and --tls-key belong together")
    refused(run("serve", *ca), "--tls-client-ca is for https")
    refused(run("serve", "--bind", unix, *cert, *key), "leave https out")
    refused(run("serve", "--tls-cert", tmp_path / "none.pem", *key), "none.pem: the certificate cannot be read")
    refused(run("follow", "http://127.0.0.1:1", "--into", tmp_path / "a.db", *cert, *key), "--serve")
    refused(run("run", tmp_path / "job.json", *cert, *key), "--serve")
    assert not (tmp_path / "a.db").exists()


def serial_of(url: str, files: Certificates) -> str:
    """Return the number of the certificate that a server shows."""
    with httpx.Client(verify=files.trusting(), timeout=LATEST_S) as client, client.stream("GET", url) as answer:
        shown = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
    return str(shown["serialNumber"])


def test_a_certificate_that_is_replaced_is_shown_to_new_connections(
    files: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("taskfold.http.serve.tls.RENEWAL_SECONDS", 0.01)
    cert, key = files.issue("renewed", "127.0.0.1")
    with running(app_of(), tls=TlsFiles(cert, key)) as server:
        first = serial_of(server.url, files)
        Path(cert).write_bytes(Path(files.cert).read_bytes())
        until(lambda: "is not that of the certificate" in caplog.text)
        assert serial_of(server.url, files) == first, "what cannot be used is not taken"
        Path(key).write_bytes(Path(files.key).read_bytes())
        until(lambda: serial_of(server.url, files) != first)


# --- several processes, regions, and recorders ---


def commands(files: Certificates) -> tuple[str, ...]:
    return "--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", files.ca


def test_every_process_of_a_server_speaks_https_and_asks_for_certificates(files: Certificates, tmp_path: Path) -> None:
    with served(tmp_path / "log.db", "--workers", "2", *commands(files)) as (_, url):
        assert url.startswith("https://")
        for _ in range(12):  # the system spreads connections
            answer = httpx.get(f"{url}/v1/allocations", verify=files.trusting(is_certified=True), timeout=LATEST_S)
            assert answer.status_code == 200
            answer = httpx.get(f"{url}/v1/allocations", verify=files.trusting(), timeout=LATEST_S)
            assert answer.status_code == 403
            answer = httpx.get(f"{url}/v1/agent/health", verify=files.trusting(), timeout=LATEST_S)
            assert answer.status_code == 200


def test_a_server_of_another_region_is_asked_with_a_certificate_of_ours(
    files: Certificates, mutual: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, file in files.environment.items():
        monkeypatch.setenv(name, file)
    app = App(Engine(dialect="1.1.2"), peers=Peers({"eu": mutual.url}))
    with running(app) as near:
        answer = httpx.get(f"{near.url}/v1/allocations?region=eu", timeout=LATEST_S)
    assert [stub["ID"] for stub in answer.json()] == [ID]

    monkeypatch.delenv("NOMAD_CACERT")
    app = App(Engine(dialect="1.1.2"), peers=Peers({"eu": mutual.url}))
    with running(app) as near:
        answer = httpx.get(f"{near.url}/v1/allocations?region=eu", timeout=LATEST_S)
    assert (answer.status_code, "certificate verify failed" in answer.text) == (500, True)


def test_a_server_with_certificates_is_followed_by_a_recorder_with_certificates(
    files: Certificates, tmp_path: Path
) -> None:
    first = tmp_path / "first.db"
    with Engine.open(str(first), dialect="1.1.2") as engine:
        engine.place({"ID": ID, "JobID": "job", "Namespace": "default", "Job": {"ID": "job"}})
    with served(first, *commands(files)) as (_, url):
        command = [sys.executable, "-m", "taskfold", "follow", url, "--into", str(tmp_path / "second.db"), "--once"]
        done = subprocess.run(
            command, env=os.environ | files.environment, capture_output=True, text=True, timeout=LATEST_S, check=False
        )
        assert done.returncode == 0, done.stderr
        without = files.environment | {"NOMAD_CLIENT_CERT": "", "NOMAD_CLIENT_KEY": ""}
        command[-2] = str(tmp_path / "third.db")
        done = subprocess.run(
            command, env=os.environ | without, capture_output=True, text=True, timeout=LATEST_S, check=False
        )
        assert done.returncode == 2
        assert "without one about its health alone" in done.stderr
        # The chain goes on: what was recorded is served by https, too, and followed.
        with (
            served("--follow", url, *commands(files), **files.environment) as (_, mirror),
            httpx.Client(base_url=mirror, verify=files.trusting(is_certified=True), timeout=LATEST_S) as client,
        ):
            answer = client.get("/v1/allocations")
            while not answer.json():
                answer = client.get("/v1/allocations", params={"index": answer.headers["X-Nomad-Index"]})
    assert [stub["ID"] for stub in json.loads(answer.text)] == [ID]
    with Engine.open(str(tmp_path / "second.db")) as engine:
        assert engine.reader.ids() == [ID]
