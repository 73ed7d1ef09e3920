"""``taskfold run``: what it refuses in one sentence, how it ends, and what it finds again after it was killed."""

from __future__ import annotations

import gc
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

import nomad
from support import recordings
from support.command_line import refused
from support.command_line import run as called
from support.killing import KILLS
from support.servers import LATEST_S, until, url_of
from support.supervising import FOREVER, NS, events_of, job_of, left_in, output, script
from taskfold import Engine, events, verify
from taskfold.run.supervisor import Supervisor

RUNS = 6


def written(directory: Path, *tasks: object, **more: object) -> Path:
    """Write a job file."""
    path = directory / "job.json"
    path.write_text(json.dumps(job_of(*tasks, **more)), encoding="utf-8")
    return path


def begin(*arguments: object, **more: object) -> subprocess.Popen[str]:
    """Begin the command as a process of its own."""
    command = [sys.executable, "-m", "taskfold", "run", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read what it says until a line has a text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}: {process.communicate()}")


@contextmanager
def running(directory: Path, text: str = FOREVER, *arguments: object, **more: object):
    """Run a task whose process begins with a trap until it runs."""
    job = written(directory, script("main", text, **more), type="service")
    process = begin(job, *arguments)
    try:
        wait_for(process, "Started")
        until(
            lambda: any(found for folder in (directory, Path(tempfile.gettempdir())) for found in folder.rglob("ready"))
        )
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _what_is_written_without_a_log_goes_away(monkeypatch, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("temporary"))
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)


# --- it refuses ---


def config(command: object, **more: object) -> dict[str, object]:
    return {"Name": "main", "Driver": "raw_exec", "Config": {"command": command}, **more}


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (config("/no/such/cmd"), "task 'main': /no/such/cmd: no such command"),
        (config("no-such-cmd"), "task 'main': no-such-cmd: no such command"),
        (config("./relative"), "task 'main': ./relative: no such command"),
        (config(__file__), "test_cli_run.py: permission denied"),
        (config(""), 'The argument "command" is required'),
        (config(7), "command"),
        (config("true", Driver="docker"), "task 'main': driver 'docker' is not known here; there is raw_exec"),
        (config("true", User="nobody"), "task 'main': user cannot be had here"),
        (config("true", Artifacts=[{"GetterSource": "http://x"}]), "task 'main': artifacts cannot be had here"),
        (config("true", Templates=[{"EmbeddedTmpl": "x"}]), "task 'main': templates cannot be had here"),
        (config("true", Name=""), "need names"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_and_nothing_is_begun(tmp_path, task, sentence):
    log = tmp_path / "tasks.db"

    refused(called("run", written(tmp_path, script("good", "true"), task), "--log", log), sentence)

    assert [entry.name for entry in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not JSON"),
        ('job "example" {}', "is not JSON"),
        ("[]", "holds no job"),
        ("7", "$: expected an object, found 7"),
        ("{}", "has no TaskGroups"),
        ('{"ID": "a", "TaskGroups": []}', "has no TaskGroups"),
        ('{"ID": "a", "TaskGroups": [{"Name": "g", "Tasks": null}]}', "need names"),
        ('{"ID": "a", "TaskGroups": 3}', "TaskGroups"),
        (json.dumps([job_of(script("a", "true"))] * 2), "holds 2 jobs; one is run"),
        (json.dumps({**job_of(script("a", "true")), "ID": ""}), "need names"),
        (json.dumps(job_of(script("a", "true"), script("a", "true"))), "each its own"),
        (json.dumps({**job_of(script("a", "true")), "Type": "cron"}), "is no type of job"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path, content, sentence):
    path = tmp_path / "job.json"
    path.write_text(content, encoding="utf-8")

    refused(called("run", path), sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--log", "{tmp}/tasks.txt"], "a log ends in .db"),
        (["--log", "{tmp}/none/tasks.db"], "none"),
        (["--log", "postgresql://localhost/x"], "--log must be a file"),
        (["--serve", "4646"], "expected HOST:PORT"),
        (["--serve", "0.0.0.0:0"], "--token-file"),
        (["--dialect", "9.9"], "9.9"),
    ],
)
def test_bad_options_are_refused(tmp_path, arguments, sentence):
    job = written(tmp_path, script("main", f"touch {tmp_path}/ran"))

    refused(called("run", job, *(text.format(tmp=tmp_path) for text in arguments)), sentence)

    assert not (tmp_path / "ran").exists()


def test_a_port_that_is_taken_is_refused_and_nothing_is_started(tmp_path):
    job = written(tmp_path, script("main", f"touch {tmp_path}/ran"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(called("run", job, "--serve", f"127.0.0.1:{taken.getsockname()[1]}"), "in use")

    assert not (tmp_path / "ran").exists()


def test_a_policy_that_is_refused_is_refused_before_anything_is_begun(tmp_path):
    job = job_of(script("main", "true"))
    job["TaskGroups"][0]["RestartPolicy"]["Mode"] = "often"
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")

    refused(called("run", path, "--log", tmp_path / "tasks.db"), "often")

    assert [entry.name for entry in tmp_path.iterdir()] == ["job.json"]


@pytest.mark.parametrize("name", ["tasks.db", "tasks.jsonl"])
def test_a_log_that_another_run_uses_is_refused(tmp_path, name):
    log = tmp_path / name
    with running(tmp_path, FOREVER, "--log", log) as process:
        second = begin(tmp_path / "job.json", "--log", log)
        told = second.communicate(timeout=LATEST_S)[1]
        assert second.returncode == 2
        assert "another" in told
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LATEST_S)


@pytest.mark.parametrize("name", ["raw_exec_no_such_command", "raw_exec_missing_command", "batch_ok_mock"])
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_recorded_jobs_that_cannot_be_run_are_refused(version, name):
    refused(called("run", recordings.RECORDINGS / version / name / "job.json", "--dialect", version), "task 'main'")


# --- it ends ---


def test_it_ends_when_its_tasks_have_and_says_how(tmp_path):
    job = written(tmp_path, script("main", "exit 3"))

    process = begin(job, "--log", tmp_path / "tasks.db")
    shown, told = process.communicate(timeout=LATEST_S)

    assert process.returncode == 1
    assert re.search(r"main  Terminated  Exit Code: 3\n", shown)
    assert told.splitlines()[-1] == "taskfold: 1 allocation failed"


def test_the_collector_passes_over_what_is_there_while_it_runs(tmp_path, monkeypatch):
    at_work = []

    async def work(_):
        at_work.append(gc.get_freeze_count())

    monkeypatch.setattr(Supervisor, "run", work)

    assert called("run", written(tmp_path, script("main", "exit 0"))).exit_code == 0

    assert at_work[0] > 1_000
    assert gc.get_freeze_count() == 0


def test_what_has_ended_is_not_run_again(tmp_path):
    job = written(tmp_path, script("main", f"echo x >> {tmp_path}/ran"))

    for _ in range(2):
        process = begin(job, "--log", tmp_path / "tasks.db")
        told = process.communicate(timeout=LATEST_S)[1]
        assert (process.returncode, told.splitlines()[-1]) == (0, "taskfold: 1 allocation complete")

    assert (tmp_path / "ran").read_text(encoding="utf-8") == "x\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_orderly_stop(tmp_path, number):
    log = tmp_path / "tasks.db"
    with running(tmp_path, f"trap 'sleep 0.2; exit 0' INT; {FOREVER}", "--log", log) as process:
        process.send_signal(number)
        process.communicate(timeout=LATEST_S)

    assert process.returncode == 0
    with Engine.open(log) as engine:
        (alloc,) = engine.allocations().ids
        ended = events_of(engine, alloc, "main")[-2]
        assert isinstance(ended, events.Terminated)
        assert ended.exit_code == 0
        assert engine.snapshot(alloc).desired_status == "stop"
    assert left_in(tmp_path) == []


def test_a_second_signal_ends_at_once_and_is_recorded_too(tmp_path):
    log = tmp_path / "tasks.db"
    hardly_ever = 10 * LATEST_S * NS
    with running(tmp_path, f"trap '' INT; {FOREVER}", "--log", log, KillTimeout=hardly_ever) as process:
        process.send_signal(signal.SIGINT)
        wait_for(process, "Killing")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LATEST_S)

    with Engine.open(log) as engine:
        (alloc,) = engine.allocations().ids
        assert engine.task(alloc, "main").state == "dead"
    assert left_in(tmp_path) == []


def test_without_a_log_a_kill_of_the_command_ends_its_tasks_too(tmp_path):
    with running(tmp_path, f"cd {tmp_path}; {FOREVER}") as process:
        assert left_in(tmp_path)
        process.kill()
        process.wait()

    until(lambda: not left_in(tmp_path))


TOLD_OF_TERMINALS = {"COLUMNS", "LINES", "NO_COLOR"}
"""What the environment may tell of another terminal than the one that is looked at."""


def test_on_a_terminal_a_table_lives(tmp_path):
    job = written(tmp_path, script("main", f"until [ -e {tmp_path}/shown ]; do sleep 0.05; done; exit 3"))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen(
        [sys.executable, "-m", "taskfold", "run", str(job)],
        stdout=theirs,
        stderr=theirs,
        env={**{name: os.environ[name] for name in os.environ.keys() - TOLD_OF_TERMINALS}, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # which is how a terminal ends
        while part := os.read(ours, 65_536):
            shown += part
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
            if re.search(r"example\.group\[0\] +main +running +0 ", text):
                (tmp_path / "shown").touch()  # else it never ends
    os.close(ours)

    assert process.wait() == 1
    assert "ALLOCATION" in text
    assert re.search(r"example\.group\[0\] +main +dead, failed +0 .*Not Restarting: Policy allows no restarts", text)


# --- it was killed ---


@pytest.mark.parametrize("name", ["tasks.db", "tasks.jsonl"])
def test_after_a_kill_it_goes_on_and_a_half_written_record_does_not_stop_it(tmp_path, name):
    log = tmp_path / name
    with running(tmp_path, f"echo $$; {FOREVER}", "--log", log) as process:
        process.kill()
    if name.endswith(".jsonl"):
        with log.open("ab") as file:
            file.write(b'{"Seq":7,"Index":6,"Alloc":"half')
    assert left_in(tmp_path)

    again = begin(tmp_path / "job.json", "--log", log)
    told = again.stderr.readline() + again.stderr.readline()
    again.send_signal(signal.SIGTERM)
    shown = again.communicate(timeout=LATEST_S)[0]

    assert again.returncode == 0
    assert "reattached" in told
    assert "Started" not in shown
    assert left_in(tmp_path) == []
    with Engine.open(log) as engine:
        (alloc,) = engine.allocations().ids
        assert b'"Found":"reattached"' in engine.snapshot(alloc).fields["Processes"]


def kill_again_and_again(directory: Path, seed: int, kills: int) -> int:
    """Kill the command at random moments until its job has ended, and check that nothing was lost; do it again."""
    chance = random.Random(seed)
    done = jobs = 0
    while done < kills:
        jobs += 1
        folder = directory / f"{seed}-{jobs}"
        folder.mkdir()
        log = folder / ("tasks.jsonl" if jobs % 2 else "tasks.db")
        tasks = [
            script(f"t{number}", f"echo x >> {folder}/t{number}; sleep 0.{number + 1}; exit 1") for number in range(3)
        ]
        # One alone in its group each: the failure of one would be the end of the others.
        told = job_of(*tasks, attempts=RUNS - 1)
        (group,) = told["TaskGroups"]
        told["TaskGroups"] = [{**group, "Name": task["Name"], "Tasks": [task]} for task in tasks]
        job = folder / "job.json"
        job.write_text(json.dumps(told), encoding="utf-8")
        while done < kills:
            process = begin(job, "--log", log)
            try:
                process.wait(chance.uniform(0.3, 1.2))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                done += 1
            finally:
                process.communicate()
        last = begin(job, "--log", log)
        last.communicate(timeout=LATEST_S)
        assert last.returncode == 1
        check(folder, log)
    return done


def check(folder: Path, log: Path) -> None:
    """Check that every process that ran is in the log, once, and that none is left."""
    assert left_in(folder) == []
    assert verify(log).agrees
    with Engine.open(log) as engine:
        assert len(engine.allocations()) == 3
        for snapshot in engine.allocations():
            (task,) = snapshot.tasks
            told = events_of(engine, snapshot.id, task)
            ran = (folder / task).read_text(encoding="utf-8").count("x")
            counts = [sum(isinstance(event, kind) for event in told) for kind in (events.Started, events.Terminated)]
            assert [ran, *counts] == [RUNS] * 3, (task, ran, counts)
            assert all(event.exit_code == 1 for event in told if isinstance(event, events.Terminated))
            assert snapshot.client_status == "failed"


def test_killed_at_any_moment_it_loses_nothing_and_leaves_no_orphan(tmp_path):
    seed, workers = 13, 3
    each = -(-max(KILLS, 30) // workers)
    with ThreadPoolExecutor(workers) as pool:
        kills = list(pool.map(lambda number: kill_again_and_again(tmp_path, seed + number, each), range(workers)))
    assert sum(kills) >= 30


# --- it serves ---


@contextmanager
def served(directory: Path, text: str):
    job = written(directory, script("main", text), type="service")
    process = begin(job, "--serve", "127.0.0.1:0", "--log", directory / "tasks.db")
    try:
        url = url_of(process)
        wait_for(process, "Started")
        until(lambda: any(directory.rglob("ready")))
        yield process, url
    finally:
        process.kill()
        process.communicate()


def test_nomads_client_reads_output_files_and_use_of_the_processes(tmp_path):
    busy = f"echo begun; echo trouble >&2; echo kept > $NOMAD_ALLOC_DIR/data/file; {FOREVER}"
    with served(tmp_path, busy) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        client = nomad.Nomad(host=host, port=int(port), timeout=LATEST_S)
        (stub,) = client.allocations.get_allocations()
        alloc, client = stub["ID"], client.client

        assert client.stream_logs.stream(alloc, "main", "stdout", plain=True) == "begun\n"
        assert client.stream_logs.stream(alloc, "main", "stderr", plain=True) == "trouble\n"
        assert {entry["Name"] for entry in client.ls.list_files(alloc)} == {"alloc", "main"}
        assert {entry["Name"] for entry in client.ls.list_files(alloc, "alloc/logs")} == {
            "main.stdout.0",
            "main.stderr.0",
        }
        assert client.cat.read_file(alloc, "alloc/data/file") == "kept\n"
        assert client.stat.stat_file(alloc, "alloc/data/file")["Size"] == 5

        told = client.allocation.read_allocation_stats(alloc)
        assert told["Tasks"]["main"]["Pids"], "the shell of the task, and what it runs"
        assert told["ResourceUsage"]["MemoryStats"]["RSS"] > 100_000
        assert told["ResourceUsage"]["CpuStats"]["Measured"] == ["System Mode", "User Mode", "Percent"]

        logs = httpx.stream(
            "GET",
            f"{url}/v1/client/fs/logs/{alloc}?task=main&type=stdout&follow=true&plain=true",
            timeout=LATEST_S,
        )
        with logs as answer:
            pieces = answer.iter_text()
            assert next(pieces) == "begun\n"
            process.send_signal(signal.SIGINT)  # the task is stopped, and with the last one the server
            assert "".join(pieces) == ""
        assert process.wait(LATEST_S) == 0


def test_nomads_client_acts_on_the_processes_and_blocked_queries_wake(tmp_path):
    with served(tmp_path, f"trap 'echo hup' HUP; echo began; {FOREVER}") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        client = nomad.Nomad(host=host, port=int(port), timeout=LATEST_S)
        (found,) = client.allocations.get_allocations()
        assert found["ClientStatus"] == "running"
        alloc = found["ID"]
        written_by_it = output(tmp_path / "tasks.db.run", alloc)

        client.client.allocation.signal_allocation(alloc, "SIGHUP", "main")
        until(lambda: "hup" in written_by_it.read_text(encoding="utf-8"))
        client.client.allocation.restart_allocation(alloc)
        wait_for(process, "Started")
        until(lambda: written_by_it.read_text(encoding="utf-8").count("began") == 2)

        index = client.allocation.get_allocation(alloc)["ModifyIndex"]
        woken = []
        waiter = threading.Thread(
            target=lambda: woken.append(
                httpx.get(f"{url}/v1/allocation/{alloc}?index={index}&wait=60s", timeout=LATEST_S).json()[
                    "DesiredStatus"
                ]
            )
        )
        waiter.start()
        until(lambda: "\ntaskfold_blocked_queries 1.0\n" in httpx.get(f"{url}/v1/metrics?format=prometheus").text)
        client.allocation.stop_allocation(alloc)
        waiter.join(LATEST_S)
        process.communicate(timeout=LATEST_S)

    assert woken == ["stop"]
    assert process.returncode == 0
    assert left_in(tmp_path) == []
