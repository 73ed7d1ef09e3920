"""``taskfold follow``: a Nomad recorded from the command line, killed and begun again, and served meanwhile."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import httpx
import pytest

from support.agents import FakeAgent, agent_beside, frames_of
from support.command_line import refused, run
from support.recordings import read_bytes
from support.servers import served, until
from taskfold import Engine
from taskfold.cli.collect import collect as collect_command
from taskfold.cli.diff import diff as diff_command
from taskfold.cli.follow import follow as follow_command
from taskfold.cli.replay import replay as replay_command
from taskfold.cli.serve import serve as serve_command
from taskfold.model.record import Collected

FRAMES = frames_of(
    read_bytes(Path(__file__).parents[1] / "data" / "clients" / "1.1.2" / "stream.ndjson.gz").split(b"\n")
)
TERMINAL = frozenset(("complete", "failed", "lost"))
KILLS = int(os.environ.get("TASKFOLD_KILLS", "4"))


@contextmanager
def following(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `taskfold follow` as a process of its own."""
    command = [sys.executable, "-m", "taskfold", "follow", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Return the next line of standard error that has a text."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, f"it ended before it said {text!r}"
    return line


def recorded(log: Path) -> dict[str, object]:
    with Engine.open(log, read_only=True) as engine:
        return {snapshot.id: json.loads(snapshot.to_json()) for snapshot in engine.allocations()}


def test_once_reads_what_there_is_and_says_how_much(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    agent.advance(40)
    log = tmp_path / "cluster.db"
    with agent_beside(agent) as url:
        result = run("follow", url, "--into", log, "--once")
        again = run("follow", url, "--into", log, "--once")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == f"taskfold: 6 allocations at index {agent.index}, 48 new records, 1 gap"
    assert again.stderr.splitlines()[-1] == f"taskfold: 6 allocations at index {agent.index}, 0 new records"
    assert recorded(log) == agent.bodies


def test_the_agent_is_that_of_the_environment_where_none_is_named(tmp_path: Path):
    agent = FakeAgent(FRAMES, token="secret-token")
    agent.advance(20)
    with agent_beside(agent) as url:
        env = {"NOMAD_ADDR": url, "NOMAD_TOKEN": "secret-token"}
        result = run("follow", "--into", tmp_path / "cluster.jsonl", "--once", env=env)
    assert result.exit_code == 0
    assert f"following {url}" in result.stderr
    assert "secret" not in result.stderr


def test_a_new_log_is_of_the_dialect_that_the_agent_speaks(tmp_path: Path):
    with agent_beside(FakeAgent([], version="0.5.6", has_stream=False)) as url:
        assert run("follow", url, "--into", tmp_path / "cluster.db", "--once").exit_code == 0
    with Engine.open(tmp_path / "cluster.db", read_only=True) as engine:
        assert engine.dialect.name == "0.5.6"


def test_killed_at_any_moment_it_goes_on_and_has_everything_once(tmp_path: Path):
    chance = random.Random(20)
    log, agent = tmp_path / "cluster.db", FakeAgent(FRAMES)
    with agent_beside(agent) as url:
        for number in range(KILLS):
            with following(url, "--into", log) as process:
                line_with(process, "following")
                for _ in range(len(FRAMES) // KILLS + 1):
                    agent.call(agent.advance)
                    time.sleep(chance.random() * 0.02)
                if number % 2:
                    line_with(process, "recorded up to")
                process.send_signal(signal.SIGKILL)
        agent.call(agent.advance, len(FRAMES))
        assert run("follow", url, "--into", log, "--once").exit_code == 0
    assert recorded(log) == agent.bodies
    assert run("log", log, "--check").exit_code == 0
    with Engine.open(log, read_only=True) as engine:
        events = [(record.alloc, record.task, record.event) for record in engine.subscribe(timeout=0) if record.task]
    assert len(events) == len({repr(event) for event in events})


def test_what_is_recorded_is_served_and_health_tells_when_the_agent_is_away(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    agent.advance(30)
    with (
        agent_beside(agent) as url,
        following(url, "--into", tmp_path / "cluster.db", "--serve", "127.0.0.1:0") as process,
    ):
        mirror = re.search(r"at (http://\S+)", line_with(process, "serving at"))[1]  # type: ignore[index]
        line_with(process, "recorded up to")
        agent.call(agent.advance, 5)
        with httpx.Client(base_url=mirror) as client:
            until(lambda: client.get("/v1/allocations").headers["X-Nomad-Index"] == str(agent.index))
            alloc, body = next(iter(agent.bodies.items()))
            answer = client.get(f"/v1/allocation/{alloc}")
            assert answer.json() == body
            assert answer.headers["X-Nomad-Knownleader"] == "true"
            assert client.get("/v1/agent/health").status_code == 200

            agent.is_away = True
            agent.call(agent.disconnect)
            until(lambda: client.get("/v1/agent/health").status_code == 503)
            assert url in client.get("/v1/agent/health").json()["server"]["message"]
            away = client.get(f"/v1/allocation/{alloc}")
            assert (away.json(), away.headers["X-Nomad-Knownleader"]) == (body, "false")
            until(lambda: int(client.get("/v1/allocations").headers["X-Nomad-Lastcontact"]) > 0)
            numbers = client.get("/v1/metrics?format=prometheus").text
            assert "taskfold_source_connected 0.0" in numbers
            assert "taskfold_source_gaps" in numbers

            agent.is_away = False
            until(lambda: client.get("/v1/agent/health").status_code == 200)
        process.send_signal(signal.SIGTERM)
        assert "allocations at index" in line_with(process, "new record")
        assert process.wait(60) == 0


def test_every_worker_of_a_mirror_tells_when_the_agent_is_away(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    agent.advance(30)
    with (
        agent_beside(agent) as url,
        served(tmp_path / "cluster.db", "--follow", url, "--workers", 3) as (_, mirror),
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(httpx.Client(base_url=mirror)) for _ in range(24)]

        def headers(name: str) -> set[str]:
            return {client.get("/v1/allocations?stale").headers[name] for client in clients}

        until(lambda: headers("X-Nomad-Knownleader") == {"true"})
        assert headers("X-Nomad-Lastcontact") == {"0"}
        agent.is_away = True
        agent.call(agent.disconnect)
        until(lambda: headers("X-Nomad-Knownleader") == {"false"})
        until(lambda: "0" not in headers("X-Nomad-Lastcontact"))
        assert {client.get("/v1/agent/health").status_code for client in clients} == {503}
        agent.is_away = False
        until(lambda: headers("X-Nomad-Knownleader") == {"true"})


def test_a_server_follows_an_agent_and_another_follows_that(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    agent.advance(30)
    with (
        agent_beside(agent) as url,
        served("--follow", url, tmp_path / "first.db") as (_, first),
        served("--follow", first, tmp_path / "second.db") as (_, second),
        served("--follow", second) as (_, third),
        httpx.Client(base_url=third) as client,
    ):
        while agent.call(agent.advance):
            time.sleep(0.005)

        def bodies() -> dict[str, object]:
            stubs = client.get("/v1/allocations").json()
            return {stub["ID"]: client.get(f"/v1/allocation/{stub['ID']}").json() for stub in stubs}

        until(lambda: bodies() == agent.bodies)


def test_lines_of_json_have_the_message_and_the_time(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    with agent_beside(agent) as url:
        result = run("follow", url, "--into", tmp_path / "cluster.db", "--once", "--log-format", "json")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert all(line["time_ns"] > 0 for line in lines)
    assert lines[0]["message"].startswith(f"following {url} into")


def test_what_ended_is_collected_and_its_records_are_removed(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    agent.advance(len(FRAMES))
    log, options = tmp_path / "cluster.db", ("--collect-after", "0s", "--once")
    with agent_beside(agent) as url:
        assert run("follow", url, "--into", log, *options).exit_code == 0
        with Engine.open(log, read_only=True) as engine:
            whole = list(engine.subscribe(timeout=0))
            ended = {record.alloc for record in whole if isinstance(record.event, Collected)}
            assert ended == {alloc for alloc, body in agent.bodies.items() if body["ClientStatus"] in TERMINAL}
        assert run("follow", url, "--into", log, *options, "--compact").exit_code == 0
        again = run("follow", url, "--into", log, *options, "--compact")
    assert again.stderr.splitlines()[-1].endswith("0 new records"), "what was collected here stays so"
    with Engine.open(log, read_only=True) as engine:
        rest = [record.alloc for record in engine.subscribe(after=whole[-1].seq - len(ended), timeout=0)]
        assert sorted(rest) == sorted(ended)
        assert recorded(log) == {alloc: body for alloc, body in agent.bodies.items() if alloc not in ended}
    assert run("log", log, "--check").exit_code == 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["stream.ndjson"], ["stream.ndjson is no address of an agent"]),
        (["http://"], ["http://: is no address of an agent; expected http://HOST:PORT"]),
        (["http://user:secret@127.0.0.1:0"], ["http://127.0.0.1:0: is no address"]),
        (["http://127.0.0.1:4646", "--once", "--serve", "127.0.0.1:0"], ["--once reads what there is, and ends"]),
        (["http://127.0.0.1:4646", "--compare-every", "0s"], ["a duration above zero"]),
        (["http://127.0.0.1:4646", "--token-file", "none"], ["none: the token cannot be read: No such file"]),
        (["http://127.0.0.1:1", "--once", "--dialect", "1.1.2"], ["http://127.0.0.1:1: cannot be asked"]),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_sentence(tmp_path: Path, arguments: list[str], parts: list[str]):
    result = run("follow", *arguments, "--into", tmp_path / "cluster.db", "--dialect", "1.1.2")
    assert result.exit_code == 2
    sentence = result.stderr.splitlines()[-1]
    for part in parts:
        assert part in sentence
    assert "secret" not in result.stderr
    assert "Traceback" not in result.stderr


def test_no_log_is_begun_once_for_an_agent_that_is_away(tmp_path: Path):
    refused(run("follow", "http://127.0.0.1:1", "--into", tmp_path / "cluster.db", "--once"), "cannot be asked")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--pass-through", "reads"], "name one with --follow URL"),
        (["x.db", "--follow", "http://127.0.0.1:1", "--pass-through", "reads", "--workers", "2"], "in one process"),
        (["--follow", "a.ndjson", "--follow", "b.ndjson"], "several sources must be agents"),
        (["--follow", "a.ndjson", "--follow-token-file", "token"], "is for agents"),
    ],
)
def test_what_serve_cannot_follow_is_refused_in_one_sentence(arguments: list[str], part: str):
    refused(run("serve", *arguments), part)


def test_a_log_that_something_else_writes_is_refused(tmp_path: Path):
    with Engine.open(tmp_path / "own.db") as engine:
        engine.place({"ID": "a", "JobID": "example"})
    refused(run("follow", "http://127.0.0.1:1", "--into", tmp_path / "own.db"), "with indexes of its own")


def test_a_log_that_another_process_writes_now_is_refused(tmp_path: Path):
    log = tmp_path / "cluster.db"
    agent = FakeAgent(FRAMES)
    agent.advance(20)
    with agent_beside(agent) as url, following(url, "--into", log) as process:
        line_with(process, "recorded up to")
        refused(run("follow", url, "--into", log, "--once"), "cluster.db", "another process")


def test_a_log_of_another_dialect_is_refused(tmp_path: Path):
    agent = FakeAgent(FRAMES)
    agent.advance(20)
    Engine.open(tmp_path / "old.db", dialect="0.5.0").close()
    with agent_beside(agent) as url:
        sentence = run("follow", url, "--into", tmp_path / "old.db", "--once").stderr.splitlines()[-1]
    assert "0.5.0" in sentence


# --- what the guide shows ---

GUIDE = (Path(__file__).parents[2] / "docs" / "recording.md").read_text("utf-8")
COMMANDS: list[click.Command] = [follow_command, serve_command, collect_command, replay_command, diff_command]
PARSERS = {command.name: command for command in COMMANDS}


def words_of(parser: click.Command) -> set[str]:
    return {word for parameter in parser.params for word in parameter.opts}


def test_every_option_that_the_guide_names_is_there():
    words = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", GUIDE))
    assert words
    assert words <= set().union(*map(words_of, PARSERS.values()))


def shown_command(text: str) -> list[str]:
    """Return the words of the command that a unit, or a job file, begins."""
    if unit := re.search(r"^ExecStart=(.*)$", text, re.MULTILINE):
        return shlex.split(unit[1])[1:]
    arguments = re.search(r"args\s*=\s*(\[.*?\])", text, re.DOTALL)
    assert arguments is not None
    return [str(word) for word in json.loads(arguments[1])]


@pytest.mark.parametrize("language", ["ini", "hcl"])
def test_the_unit_and_the_job_of_the_guide_begin_a_command_that_there_is(language: str):
    block = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert block is not None
    name, *arguments = shown_command(block[1])
    context = PARSERS[name].make_context(name, arguments)
    assert context.params["log"].endswith("cluster.db")
    assert context.params["bind"]


ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd here")
def test_the_unit_of_the_guide_is_one_for_systemd(tmp_path: Path):
    block = re.search(r"```ini\n(.*?)```", GUIDE, re.DOTALL)
    assert block is not None
    unit = tmp_path / "taskfold.service"
    unit.write_text(block[1].replace("/usr/local/bin/taskfold", sys.executable))
    assert ANALYZE is not None
    result = subprocess.run([ANALYZE, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert [line for line in (result.stdout + result.stderr).splitlines() if unit.name in line] == []
