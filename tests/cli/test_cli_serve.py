"""``taskfold serve``: what it refuses in one sentence, what it says when it begins, and how it ends."""

from __future__ import annotations

import gc
import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib

import httpx
import pytest

from support import recordings
from support.command_line import refused, run
from support.examples import EXAMPLE, LINES
from support.servers import served, until
from taskfold import Engine, NdjsonLog, replay
from taskfold.cli.serve import _EXTRA
from taskfold.http.serve.server import Server

NEWEST = max(snapshot.modify_index for snapshot in replay(EXAMPLE).snapshots())


@pytest.fixture(autouse=True)
def _nothing_is_served_in_this_process(monkeypatch):
    """Have a command that should have been refused fail, rather than serve for ever."""

    async def run(*_, **__):
        raise AssertionError("it was not refused")

    monkeypatch.setattr(Server, "run", run)


def index_of(url):
    return int(httpx.get(f"{url}/v1/allocations").headers["X-Nomad-Index"])


@pytest.mark.parametrize("follow", [(), ("--follow", EXAMPLE)])
def test_the_collector_passes_over_what_is_there_while_it_serves(tmp_path, monkeypatch, follow):
    at_work = []

    async def serve(*_, **__):
        at_work.append(gc.get_freeze_count())

    monkeypatch.setattr(Server, "run", serve)
    before = gc.get_freeze_count()

    assert run("serve", tmp_path / "x.db", "--bind", "127.0.0.1:0", *follow).exit_code == 0

    assert at_work[0] > before + 1_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bind", "4646"], "expected HOST:PORT"),
        (["--bind", "127.0.0.1:" + "9" * 5_000], "expected HOST:PORT"),
        (["--bind", "0.0.0.0:0"], "--token-file"),
        (["--region-peer", "eu=ftp://x"], "expected NAME=URL"),
        (["--region-peer", "eu=http://[::1"], "expected NAME=URL"),
        (["--region-peer", "eu=http://host:99999"], "expected NAME=URL"),
        (["--region-peer", "global=http://host"], "region global is given twice"),
        (["--region", "eu", "--region-peer", "eu=http://host"], "region eu is given twice"),
        (["--region-peer", "eu=http://a", "--region-peer", "eu=http://b"], "region eu is given twice"),
        (["--region-token-file", "eu"], "expected NAME=FILE"),
        (["--region-token-file", "eu=file"], "region eu has no --region-peer"),
        (["--region-peer", "eu=http://a", "--region-token-file", "eu=/none"], "/none: cannot be read"),
        (["--token", " "], "--token is empty"),
        (["--token", "a", "--token-file", "b"], "given twice"),
        (["--dialect", "9.9"], "9.9"),
        (["--follow-silence", "soon"], "--follow-silence"),
        (["--follow", "-", "--follow-silence", "-1s"], "--follow-silence must not be negative"),
        (["--bind", "unix:"], "or unix:PATH"),
        (["--bind", "unix:/none/such/socket"], "cannot listen at unix:/none/such/socket: "),
        (["--max-connections", "0"], "--max-connections"),
        (["--max-blocked", "0"], "--max-blocked"),
        (["--max-streams", "many"], "--max-streams"),
        (["log.txt"], "a log ends in .db, .sqlite, .sqlite3 (SQLite), or ends in .jsonl"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(arguments, sentence):
    refused(run("serve", *arguments), sentence)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(run("serve", "--bind", f"127.0.0.1:{port}"), f"cannot listen at 127.0.0.1:{port}: ", "in use")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())

    refused(run("serve"), "uvicorn", "pip install 'taskfold[http]'")


def test_what_serving_needs_is_what_its_extra_installs():
    project = tomllib.loads((EXAMPLE.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {re.match(r"[\w-]+", needed)[0].replace("-", "_") for needed in project["optional-dependencies"]["http"]}

    assert set(_EXTRA) == extra - {"sniffio", "uvloop"}, "only speed needs these two"


@pytest.mark.parametrize("name", ["stream.ndjson", "stream.ndjson.gz"])
def test_what_a_nomad_said_is_no_log_and_the_import_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(EXAMPLE.read_bytes() if name.endswith(".gz") else b"".join(LINES))
    before = path.read_bytes()

    refused(run("serve", path), path, "`taskfold import")
    assert path.read_bytes() == before


def test_a_log_that_is_open_already_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    with Engine(NdjsonLog(path, "1.1.2")) as engine:
        engine.place({"ID": "aaaaaaaa-0000-0000-0000-000000000000"})
        sentence = refused(run("serve", path, "--bind", "127.0.0.1:0"), "has the log open already")
    assert "import" not in sentence, "it is a log that can be written, at another time"


def test_a_log_of_another_dialect_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    NdjsonLog(path, "0.5.6").close()

    refused(run("serve", path, "--dialect", "1.1.2"), "the log holds dialect 0.5.6, not 1.1.2")


def test_no_log_is_begun_for_a_file_that_is_not_there(tmp_path):
    for dialect in ([], ["--dialect", "1.1.2"]):
        refused(run("serve", tmp_path / "log.jsonl", "--follow", tmp_path / "none", *dialect), tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_it_says_what_it_serves_and_a_new_log_is_of_the_region(tmp_path):
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "taskfold", "serve", str(path), "--bind", "127.0.0.1:0", "--region", "eu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=20)

    assert line.startswith(
        f"taskfold: serving 0 allocations of {path} at index 0, region eu, dialect 1.1.2, at http://"
    )
    assert (process.returncode, rest) == (0, "taskfold: stopped at index 0\n")
    with NdjsonLog(path) as log:
        assert log.header.region == "eu"


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_a_new_log_gets_the_dialect_that_the_followed_file_tells(tmp_path, version):
    log, followed = tmp_path / "log.jsonl", tmp_path / "bodies.ndjson"
    first = next(recordings.bodies(recordings.scenarios(version)[0]))
    followed.write_text(first.body + "\n", encoding="utf-8")
    with served(log, "--follow", followed) as (_, url):
        until(lambda: index_of(url) > 0)
        assert httpx.get(f"{url}/v1/allocation/{first.allocation}").text == first.body
    with NdjsonLog(log) as written:
        assert written.header.dialect == version


def test_a_new_log_for_a_file_that_tells_nothing_yet_is_of_the_newest_dialect(tmp_path):
    log, followed = tmp_path / "log.jsonl", tmp_path / "stream.ndjson"
    followed.write_bytes(b"{}\n")
    with served(log, "--follow", followed) as (_, url):
        with followed.open("ab") as file:
            file.writelines(LINES)
        until(lambda: index_of(url) == NEWEST)
    with NdjsonLog(log) as written:
        assert written.header.dialect == "1.1.2"


def test_a_named_pipe_is_read_once_and_to_its_end(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"".join(LINES),), daemon=True)
    writer.start()
    with served("--follow", pipe) as (process, url):
        writer.join(10)
        until(lambda: index_of(url) == NEWEST)
        assert "has ended; its last state stays available" in process.stderr.readline()


def test_it_ends_in_order_while_standard_input_is_still_open():
    command = [sys.executable, "-m", "taskfold", "serve", "--follow", "-", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "serving" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == "taskfold: stopped at index 0\n"


def test_a_closed_standard_input_is_told():
    command = f"exec {sys.executable} -m taskfold serve --follow - --bind 127.0.0.1:0 <&-"
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=20, check=False)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "taskfold: standard input: cannot be followed: it is closed"


def test_health_tells_what_ended_the_following(tmp_path):
    packed = tmp_path / "stream.ndjson"
    packed.write_bytes(gzip.compress(LINES[0]))
    with served("--follow", packed) as (_, url):
        until(lambda: httpx.get(f"{url}/v1/agent/health").status_code == 503)
        assert "is gzip, which cannot be followed" in httpx.get(f"{url}/v1/agent/health").json()["server"]["message"]


def test_the_limits_of_the_command_line_hold():
    with served("--max-streams", "1") as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            stream.sendall(b"GET /v1/event/stream?from=now HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in stream.recv(65_536)
            reply = httpx.get(f"{url}/v1/event/stream?from=now")
    assert (reply.status_code, reply.text) == (429, "too many streams: 1 at most")


def source_of(url):
    """Return the health of a mirror, and its numbers of what it follows."""
    health = httpx.get(f"{url}/v1/agent/health")
    lines = httpx.get(f"{url}/v1/metrics?format=prometheus").text.splitlines()
    numbers = dict(line.split() for line in lines if line.startswith(("taskfold_source_", "taskfold_healthy")))
    return health.status_code, health.json()["server"]["message"], {name: float(each) for name, each in numbers.items()}


def test_health_and_metrics_tell_when_what_is_followed_falls_silent_and_is_heard_again(tmp_path):
    followed = tmp_path / "stream.ndjson"
    followed.write_bytes(b"".join(LINES))
    with served("--follow", followed, "--follow-silence", "500ms") as (_, url):
        until(lambda: source_of(url)[0] == 503)
        _, message, numbers = source_of(url)
        assert re.fullmatch(
            rf"nothing has come from {followed} for \d+ seconds: the state served may be out of date", message
        )
        assert numbers["taskfold_source_silent_seconds"] > 0.4
        assert numbers["taskfold_source_lines"] == len(LINES)
        assert (numbers["taskfold_source_ended"], numbers["taskfold_healthy"]) == (0, 0)

        def is_heard():
            with followed.open("ab") as file:
                file.write(b"{}\n")
            return source_of(url)[:2] == (200, "ok")

        until(is_heard)


def test_health_and_metrics_tell_when_what_is_followed_has_ended():
    with served("--follow", os.devnull) as (_, url):
        until(lambda: source_of(url)[0] == 503)
        _, message, numbers = source_of(url)
        assert message == f"{os.devnull} has ended: the state served is as of then"
        assert (numbers["taskfold_source_ended"], numbers["taskfold_healthy"]) == (1, 0)
