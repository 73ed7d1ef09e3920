"""The files and the output of tasks that run beside a server, and what they use, as Nomad's clients ask for them."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import msgspec
import pytest

import nomad
from support.acting import ALLOC, app_with
from support.asgi import Call, Reply, ask
from taskfold import Engine
from taskfold.http import App, running
from taskfold.run.allocation_files import AllocationFiles
from taskfold.run.usage import ProcessUsage

OUTPUT = "alloc/logs/main.stdout.0"
FS = "/v1/client/fs"
OPERATIONS = ("ls", "stat", "cat", "readat", "stream", "logs")


class Host:
    """The tasks of one allocation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self, alloc: str) -> AllocationFiles | None:
        return AllocationFiles(self.folder) if alloc == ALLOC else None

    def output(self, alloc: str, task: str, stream: str) -> str:
        assert alloc == ALLOC
        return f"alloc/logs/{task}.{stream}.0"

    async def usage(self, alloc: str) -> dict[str, dict[int, ProcessUsage]] | None:
        assert alloc == ALLOC
        return {"main": {7: ProcessUsage(1_024, 0, 25.0, 5.0, 900.0), 8: ProcessUsage(2_048, 1, 25.0, 0.0, 750.0)}}


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Return a server beside an allocation with files."""
    (tmp_path / "alloc/logs").mkdir(parents=True)
    (tmp_path / "main/secrets").mkdir(parents=True)
    (tmp_path / "main/secrets/key").write_text("secret")
    (tmp_path / OUTPUT).write_text("one\ntwo\nthree\n")
    app = app_with("main", "waiting")
    app.context.tasks = Host(tmp_path)
    return app


def fs(app: App, target: str) -> Reply:
    operation, _, query = target.partition("?")
    return ask(app, f"GET {FS}/{operation}/{ALLOC}?{query}")


def frames(text: bytes) -> list[dict[str, object]]:
    """Return the frames of a stream without signs of life; Nomad writes one behind the other."""
    decoder, rest, found = json.JSONDecoder(), text.decode(), []
    while rest:
        frame, end = decoder.raw_decode(rest)
        rest = rest[end:]
        if frame:
            found.append(frame)
    return found


def data_of(frame: dict[str, object]) -> bytes:
    return base64.b64decode(frame.get("Data", ""))


# --- reads ---


def test_a_directory_is_listed_as_nomad_does(app: App) -> None:
    reply = fs(app, "ls")
    [shared, own] = json.loads(reply.text)
    assert (shared["Name"], shared["IsDir"], shared["FileMode"][:4], own["Name"]) == ("alloc", True, "drwx", "main")
    [log] = json.loads(fs(app, "ls?path=alloc/logs&pretty").text)
    assert (log["Name"], log["Size"], log["IsDir"], log["FileMode"][:3]) == ("main.stdout.0", 14, False, "-rw")
    assert log["ModTime"].endswith("Z")


def test_what_is_at_a_path_is_told_as_nomad_does(app: App) -> None:
    told = json.loads(fs(app, f"stat?path={OUTPUT}").text)
    assert (told["Name"], told["ContentType"], told["Size"]) == ("main.stdout.0", "text/plain; charset=utf-8", 14)
    assert json.loads(fs(app, "stat?path=/").text)["IsDir"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (f"cat?path={OUTPUT}", "one\ntwo\nthree\n"),
        (f"cat?path=/{OUTPUT}", "one\ntwo\nthree\n"),
        (f"readat?path={OUTPUT}&offset=4", "two\nthree\n"),
        (f"readat?path={OUTPUT}&offset=4&limit=3", "two"),
        (f"readat?path={OUTPUT}&offset=4&limit=0", "two\nthree\n"),
        (f"readat?path={OUTPUT}&offset=99", ""),
        (f"readat?path={OUTPUT}&offset=0&limit=99", "one\ntwo\nthree\n"),
        ("logs?task=main&type=stdout&plain=true", "one\ntwo\nthree\n"),
        ("logs?task=main&type=stdout&plain=true&origin=end&offset=6", "three\n"),
        ("logs?task=main&type=stdout&plain=true&origin=end&offset=99", "one\ntwo\nthree\n"),
        ("logs?task=main&type=stdout&plain=true&origin=end", ""),
        ("logs?task=main&type=stdout&plain=true&origin=start&offset=8", "three\n"),
        ("logs?task=main&type=stdout&plain=true&offset=-5", "one\ntwo\nthree\n"),
    ],
)
def test_a_file_is_read_from_where_and_as_far_as_one_asks(app: App, target: str, text: str) -> None:
    reply = fs(app, target)

    assert (reply.status, reply.text) == (200, text)
    # What a task wrote is nobody's page.
    assert reply.header("Content-Type") == "text/plain; charset=utf-8"
    assert reply.header("X-Content-Type-Options") == "nosniff"
    assert reply.header("Content-Security-Policy") == "default-src 'none'; sandbox"


def test_a_long_file_comes_in_pieces_and_whole(app: App, tmp_path: Path) -> None:
    text = bytes(range(256)) * 1_000
    (tmp_path / OUTPUT).write_bytes(text)

    reply = fs(app, f"cat?path={OUTPUT}")
    assert reply.body == text
    assert max(map(len, reply.parts)) <= 65_536

    told = frames(fs(app, "logs?task=main&type=stdout").body)
    assert b"".join(map(data_of, told)) == text
    assert [frame["Offset"] for frame in told] == [65_536, 131_072, 196_608, 256_000]
    assert {frame["File"] for frame in told} == {OUTPUT}


def test_a_stream_is_framed_and_goes_no_further_if_it_is_not_to_follow(app: App) -> None:
    [frame] = frames(fs(app, f"stream?path={OUTPUT}&origin=end&offset=6&follow=false").body)
    assert data_of(frame) == b"three\n"
    assert frame == {"Data": frame["Data"], "File": OUTPUT, "Offset": 14}
    assert msgspec.json.encode(frame).startswith(b'{"Data":')


# --- what grows ---


def test_a_file_that_is_followed_is_sent_as_it_grows_is_cut_and_is_deleted(app: App, tmp_path: Path) -> None:
    file = tmp_path / OUTPUT

    async def story() -> list[dict[str, object]]:
        call = Call(app, f"GET {FS}/stream/{ALLOC}?path={OUTPUT}&origin=end")
        await call.until(lambda reply: reply.status)
        with file.open("a") as writing:
            writing.write("four\n")
        await call.until(lambda reply: b"Offset" in reply.body)
        file.write_text("anew\n")
        await call.until(lambda reply: b"file truncated" in reply.body)
        file.unlink()
        return frames((await call.finished()).body)

    told = asyncio.run(story())

    assert [(data_of(each), each.get("FileEvent"), each["Offset"]) for each in told] == [
        (b"four\n", None, 19),
        (b"anew\n", "file truncated", 5),
        (b"", "file deleted", 5),
    ]


def test_logs_that_are_followed_go_on_until_the_client_leaves_or_the_server_stops(app: App, tmp_path: Path) -> None:
    async def story() -> Reply:
        leaving = Call(app, f"GET {FS}/logs/{ALLOC}?task=main&type=stdout&follow=true&plain=true")
        staying = Call(app, f"GET {FS}/logs/{ALLOC}?task=main&type=stdout&follow=true&plain=true&origin=end")
        await leaving.until(lambda reply: reply.body == b"one\ntwo\nthree\n")
        await staying.until(lambda reply: reply.status)
        assert app.context.streams.count == 2
        leaving.disconnect()
        await leaving.finished()
        assert app.context.streams.count == 1
        with (tmp_path / OUTPUT).open("a") as writing:
            writing.write("four\n")
        await staying.until(lambda reply: reply.body)
        app.close()
        return await staying.finished()

    assert asyncio.run(story()).text == "four\n"


def test_a_silent_stream_gives_signs_of_life_in_frames_alone(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskfold.http.nomad.files._LOOK_SECONDS", 0.001)
    monkeypatch.setattr("taskfold.http.nomad.files._HEARTBEAT_SECONDS", 0.002)

    async def story() -> None:
        framed = Call(app, f"GET {FS}/logs/{ALLOC}?task=main&type=stdout&follow=true&origin=end")
        plain = Call(app, f"GET {FS}/logs/{ALLOC}?task=main&type=stdout&follow=true&origin=end&plain=true")
        await framed.until(lambda reply: reply.body.count(b"{}") > 2)
        await plain.until(lambda reply: reply.status)
        assert plain.reply.body == b""
        app.close()
        await asyncio.gather(framed.finished(), plain.finished())

    asyncio.run(story())


# --- what is refused ---


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("stat", 400, "must provide a file name"),
        ("cat", 400, "must provide a file name"),
        ("readat?offset=0", 400, "must provide a file name"),
        (f"readat?path={OUTPUT}", 400, 'error parsing offset: strconv.ParseInt: parsing "": invalid syntax'),
        (f"readat?path={OUTPUT}&offset=1&limit=x", 400, 'error parsing limit: strconv.ParseInt: parsing "x": invalid'),
        (f"stream?path={OUTPUT}&origin=middle", 400, "origin must be start or end"),
        (f"stream?path={OUTPUT}&follow=perhaps", 400, "failed to parse follow field to boolean: strconv.ParseBool: "),
        ("stream", 400, "must provide a file name"),
        ("logs?type=stdout", 400, "must provide task name"),
        ("logs?task=main", 400, "must provide log type (stdout/stderr)"),
        ("logs?task=main&type=stdin", 400, "must provide log type (stdout/stderr)"),
        ("logs?task=main&type=stdout&plain=2", 400, "failed to parse plain field to boolean: strconv.ParseBool: "),
        ("logs?task=other&type=stdout", 400, 'unknown task name "other"'),
        ("logs?task=waiting&type=stdout", 404, 'task "waiting" not started yet. No logs available'),
        ("ls?path=none", 404, "none: no such file or directory"),
        ("cat?path=none", 404, "none: no such file or directory"),
        ("cat?path=alloc", 400, "alloc: is no file"),
        ("cat?path=../../etc/passwd", 400, "Path escapes the alloc directory"),
        ("ls?path=..", 400, "Path escapes the alloc directory"),
        ("logs?task=../main&type=stdout", 400, 'unknown task name "../main"'),
        ("cat?path=main/secrets/key", 400, "Reading secret file prohibited: main/secrets/key"),
        ("cat?path=a%00b", 404, "no such file or directory"),
        ("cat?path=a%ffb", 404, "no such file or directory"),
    ],
)
def test_what_cannot_be_read_is_told(app: App, target: str, status: int, text: str) -> None:
    reply = fs(app, target)
    assert (reply.status, text in reply.body.decode(errors="replace")) == (status, True), reply.body


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_allocation_that_does_not_run_here_has_no_files_here(app: App, operation: str) -> None:
    query = f"path={OUTPUT}&offset=0&task=main&type=stdout"
    elsewhere = ALLOC.replace("2", "3")
    reply = ask(app, f"GET {FS}/{operation}/{elsewhere}?{query}")
    assert (reply.status, reply.text) == (404, f'Unknown allocation "{elsewhere}"')
    reply = ask(app_with("main"), f"GET {FS}/{operation}/{ALLOC}?{query}")
    assert (reply.status, reply.text) == (404, f'Unknown allocation "{ALLOC}"')
    assert ask(app, f"GET {FS}/{operation}/short?{query}").status == 404
    assert ask(app, f"PUT {FS}/{operation}/{ALLOC}?{query}").status == 405


@pytest.mark.parametrize("operation", OPERATIONS)
def test_files_are_guarded_as_everything_else(tmp_path: Path, operation: str) -> None:
    target = f"GET {FS}/{operation}/{ALLOC}?path={OUTPUT}&offset=0&task=main&type=stdout&follow=false"
    app = App(Engine(dialect="1.1.2"), token="secret")
    app.context.tasks = Host(tmp_path)
    assert ask(app, target).status == 403
    app = App(Engine(dialect="1.1.2"))
    app.context.tasks = Host(tmp_path)
    assert ask(app, target, {"Host": "evil.example"}).status == 403


# --- use ---


def test_the_use_of_tasks_that_run_is_told_in_nomads_form(app: App) -> None:
    told = json.loads(ask(app, f"GET /v1/client/allocation/{ALLOC}/stats").text)

    task = told["Tasks"]["main"]
    assert set(task["Pids"]) == {"7", "8"}
    cpu = {"Measured": ["System Mode", "User Mode", "Percent"], "ThrottledPeriods": 0, "ThrottledTime": 0}
    assert task["Pids"]["7"]["CpuStats"] == cpu | {
        "Percent": 30.0,
        "SystemMode": 5.0,
        "TotalTicks": 900.0,
        "UserMode": 25.0,
    }
    assert task["ResourceUsage"]["MemoryStats"]["RSS"] == 3_072
    assert task["ResourceUsage"]["DeviceStats"] is None
    assert told["ResourceUsage"] == task["ResourceUsage"] | {"DeviceStats": []}
    assert told["Timestamp"] == task["Timestamp"] > 0


def test_python_nomad_reads_files_logs_and_use(app: App) -> None:
    with running(app) as server:
        client = nomad.Nomad(host="127.0.0.1", port=server.port).client
        assert [entry["Name"] for entry in client.ls.list_files(ALLOC)] == ["alloc", "main"]
        assert client.stat.stat_file(ALLOC, OUTPUT)["Size"] == 14
        assert client.cat.read_file(ALLOC, OUTPUT) == "one\ntwo\nthree\n"
        assert client.read_at.read_file_offset(ALLOC, 4, 3, OUTPUT) == "two"
        assert client.stream_logs.stream(ALLOC, "main", "stdout", plain=True) == "one\ntwo\nthree\n"
        [frame] = frames(client.stream_logs.stream(ALLOC, "main", "stdout").encode())
        assert data_of(frame) == b"one\ntwo\nthree\n"
        assert set(client.allocation.read_allocation_stats(ALLOC)["Tasks"]) == {"main"}
