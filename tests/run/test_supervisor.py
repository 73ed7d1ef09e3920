"""The supervisor carries out what the engine owes with real processes, and leaves none behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.servers import LATEST_S, until
from support.supervising import (
    FOREVER,
    NS,
    READY,
    events_of,
    eventually,
    is_settled,
    job_of,
    left_in,
    output,
    run,
    script,
    supervised,
    types_of,
)
from taskfold import Engine, LogError, ManualClock, events, inputs
from taskfold.log.memory import MemoryLog
from taskfold.run.executor import is_running
from taskfold.run.process import ExecutorHandle, Process
from taskfold.run.supervisor import PROCESSES, Supervisor
from taskfold.run.task_directory import TaskDirectory


class FullLog(MemoryLog):
    """A log whose disk is full from some time on."""

    is_full = False

    def append_all(self, appends):
        if self.is_full:
            raise LogError("no space left on device")
        return super().append_all(appends)


def stop(supervisor: Supervisor) -> None:
    supervisor.stop()


def only(engine: Engine) -> str:
    (alloc,) = engine.allocations().ids
    return alloc


def handles(engine: Engine) -> dict[str, dict[str, Any]]:
    return msgspec.json.decode(engine.snapshot(only(engine)).fields[PROCESSES])


def report(said: inputs.Input, task: str = "main"):
    """Return an act that reports something of a task of the only allocation."""
    return lambda supervisor: supervisor.engine.report(only(supervisor.engine), task, said)


# --- how a process ends is told ---


@pytest.mark.parametrize(
    ("text", "exit_code", "number"),
    [("true", 0, 0), ("exit 7", 7, 0), ("kill -TERM $$", 143, 15), ("kill -KILL $$", 137, 9), ("exit 143", 143, 0)],
)
def test_an_exit_has_its_code_and_its_signal(tmp_path, text, exit_code, number):
    engine = run(job_of(script("main", text)), tmp_path)

    (ended,) = [e for e in events_of(engine, only(engine), "main") if isinstance(e, events.Terminated)]
    assert (ended.exit_code, ended.signal) == (exit_code, number)
    assert engine.snapshot(only(engine)).client_status == ("failed" if exit_code else "complete")


def test_what_a_task_writes_is_in_its_directory(tmp_path):
    engine = run(job_of(script("main", "pwd; echo oops >&2")), tmp_path)

    alloc = only(engine)
    assert output(tmp_path, alloc).read_text(encoding="utf-8") == f"{tmp_path / alloc / 'main'}\n"
    assert output(tmp_path, alloc, stream="stderr").read_text(encoding="utf-8") == "oops\n"


def test_a_task_is_told_who_it_is_and_not_what_is_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("TASKFOLD_TOKEN", "secret")
    monkeypatch.setenv("INHERITED", "yes")
    text = 'echo "$NOMAD_ALLOC_ID $NOMAD_TASK_NAME $NOMAD_TASK_DIR $OWN $INHERITED $${TASKFOLD_TOKEN-none}"'

    engine = run(job_of(script("main", text, Env={"OWN": "ü"})), tmp_path)

    alloc = only(engine)
    said = output(tmp_path, alloc).read_text(encoding="utf-8")
    assert said == f"{alloc} main {tmp_path / alloc / 'main' / 'local'} ü yes none\n"


def test_no_process_that_a_task_comes_from_has_our_secrets_in_its_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TASKFOLD_TOKEN", "sesame")
    monkeypatch.setenv("TASKFOLD_OTHER_TOKEN", "sesame")
    monkeypatch.setenv("OF_THE_USER", "visible")

    engine = run(job_of(script("main", "cat /proc/$$/environ; cat /proc/$PPID/environ >&2")), tmp_path)

    streams = ("stdout", "stderr")
    of_task, of_executor = [output(tmp_path, only(engine), stream=stream).read_bytes() for stream in streams]
    assert b"sesame" not in of_task
    assert b"OF_THE_USER=visible" in of_task
    inherited = {line.partition(b"=")[0].decode() for line in of_executor.split(b"\0") if line}
    assert inherited <= {"LC_ALL", "LC_CTYPE", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD"}


def test_a_process_begins_with_no_signal_blocked_or_ignored(tmp_path):
    # Without a shell, which has a mask of its own.
    config = {"command": "grep", "args": ["-E", "Sig(Blk|Ign)", "/proc/self/status"]}
    engine = run(job_of({"Name": "main", "Driver": "raw_exec", "Config": config}), tmp_path)

    said = output(tmp_path, only(engine)).read_text(encoding="utf-8")
    # The C library keeps 32 and 33 for itself.
    blocked, ignored = [int(line.split()[1], 16) & ~(0b11 << 31) for line in said.splitlines()]
    assert (blocked, ignored) == (0, 0)


@pytest.mark.parametrize("name", ["..", "a/b", "sp ace", "ü"])
def test_no_name_of_a_task_leads_out_of_its_directory(tmp_path, name):
    engine = run(job_of(script(name, "true")), tmp_path / "run")

    assert engine.task(only(engine), name).state == "dead"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_what_the_kernel_cannot_execute_is_a_driver_failure_in_the_words_of_the_driver(tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nothing of the kind")
    broken.chmod(0o755)
    task = {"Name": "main", "Driver": "raw_exec", "Config": {"command": str(broken)}}

    engine = run(job_of(task), tmp_path / "run")

    (failed,) = [e for e in events_of(engine, only(engine), "main") if isinstance(e, events.DriverFailure)]
    assert failed.driver_error.startswith("failed to launch command with executor: rpc error: ")
    assert failed.driver_error.endswith("exec format error")


# --- it is ended ---


def test_a_process_that_ignores_its_signal_is_killed_hard_when_its_time_is_over(tmp_path):
    text = f"trap '' INT TERM; {FOREVER}"

    engine = run(job_of(script("main", text, KillTimeout=NS // 2)), tmp_path, stop)

    told = events_of(engine, only(engine), "main")
    killing, ended = told[-3], told[-2]
    assert isinstance(killing, events.Killing)
    assert isinstance(ended, events.Terminated)
    assert (ended.exit_code, ended.signal) == (137, 9)
    assert ended.time_ns - killing.time_ns >= NS // 2


def test_asked_for_again_a_stop_is_at_once(tmp_path):
    hardly_ever = 10 * LATEST_S * NS

    engine = run(job_of(script("main", f"trap '' INT; {FOREVER}", KillTimeout=hardly_ever)), tmp_path, stop, stop)

    assert types_of(engine, "main")[-3:] == ["Killing", "Terminated", "Killed"]
    assert engine.snapshot(only(engine)).client_status == "complete"


@pytest.mark.parametrize(
    "text",
    [
        f"sleep 300 & sleep 300 & {READY}; wait",
        f"setsid sleep 300 & {READY}; wait",
        "setsid sh -c 'setsid sleep 300 & sleep 300' & exit 0",
        "(trap '' HUP INT TERM; sleep 300) & exit 0",
    ],
)
def test_what_a_process_forks_ends_with_it_wherever_it_went(tmp_path, text):
    engine = run(job_of(script("main", text, KillTimeout=NS)), tmp_path, stop)

    # `run` has looked that nothing is left.
    assert engine.task(only(engine), "main").state == "dead"


def test_the_signal_of_the_job_is_sent(tmp_path):
    text = f"trap 'exit 5' USR1; {FOREVER}"

    engine = run(job_of(script("main", text, KillSignal="SIGUSR1")), tmp_path, stop)

    told = events_of(engine, only(engine), "main")[-2]
    assert isinstance(told, events.Terminated)
    assert told.exit_code == 5


def test_a_signal_that_is_asked_for_reaches_the_process(tmp_path):
    text = f"trap 'exit 9' HUP; {FOREVER}"

    engine = run(job_of(script("main", text)), tmp_path, report(inputs.SignalRequested(signal="SIGHUP")))

    assert types_of(engine, "main")[-3:] == ["Signaling", "Terminated", "Not Restarting"]


@pytest.mark.parametrize("name", ["", "SIGBOGUS", "SIGRTMIN", "SIGRTMAX", "SIG_DFL", "hup"])
def test_a_signal_that_nomad_does_not_know_is_an_interrupt(tmp_path, name):
    text = f"trap 'exit 9' INT; {FOREVER}"

    engine = run(job_of(script("main", text)), tmp_path, report(inputs.SignalRequested(signal=name)))

    assert types_of(engine, "main")[-3:] == ["Signaling", "Terminated", "Not Restarting"]


def test_a_restart_that_is_asked_for_is_another_process(tmp_path):
    text = f"echo $$; {FOREVER}"

    engine = run(job_of(script("main", text)), tmp_path, report(inputs.RestartRequested()), stop)

    pids = output(tmp_path, only(engine)).read_text(encoding="utf-8").split()
    assert len(set(pids)) == 2
    assert engine.task(only(engine), "main").restarts == 1


def test_a_task_that_is_stopped_by_a_signal_can_still_be_killed(tmp_path):
    async def stop_by_signal(supervisor: Supervisor) -> None:
        report(inputs.SignalRequested(signal="SIGSTOP"))(supervisor)
        (process,) = supervisor._processes.values()
        stat = Path("/proc", process.status["pid"], "stat")
        await eventually(lambda: ") T " in stat.read_text(encoding="utf-8"))

    engine = run(job_of(script("main", FOREVER, KillTimeout=NS // 5)), tmp_path, stop_by_signal, stop)

    assert engine.task(only(engine), "main").state == "dead"


# --- the tasks of a group ---


def test_stages_follow_one_another(tmp_path):
    def task(name: str, text: str, hook: str = "", *, sidecar: bool = False):
        lifecycle = {"Lifecycle": {"Hook": hook, "Sidecar": sidecar}} if hook else {}
        return script(name, text, **lifecycle)

    tasks = [
        task("last", "true", "poststop"),
        task("main", f"until [ -e {tmp_path}/after ]; do sleep 0.05; done"),
        task("after", f"touch {tmp_path}/after", "poststart"),
        task("beside", FOREVER, "prestart", sidecar=True),
        task("first", "true", "prestart"),
    ]

    engine = run(job_of(*tasks), tmp_path / "run")

    happened = [(record.task, type(record.event)) for record in engine.history(only(engine))]
    order = [task for task, kind in happened if kind is events.Started]
    assert sorted(order[:2]) == ["beside", "first"]
    assert order[2:] == ["main", "after", "last"]
    for one, other in (("first", "main"), ("main", "last")):
        assert happened.index((one, events.Terminated)) < happened.index((other, events.Started))
    assert engine.snapshot(only(engine)).client_status == "complete"


def test_a_report_of_a_process_has_an_id_that_stays_the_same_from_release_to_release(tmp_path):
    engine = run(job_of(script("main", "true")), tmp_path)

    ids = {type(record.event): str(record.id) for record in engine.history(only(engine), "main")}
    assert re.fullmatch(rf"{only(engine)}/main/\d+/\d+/Started", ids[events.Started])
    assert re.fullmatch(rf"{only(engine)}/main/\d+/\d+/Exited", ids[events.Terminated])


def test_the_end_of_the_leader_is_the_end_of_the_others(tmp_path):
    engine = run(job_of(script("lead", "sleep 0.3", Leader=True), script("other", FOREVER)), tmp_path)

    assert "Leader Task Dead" in types_of(engine, "other")


def test_two_hundred_tasks_live_at_once(tmp_path):
    tasks = [script(f"t{number}", f"sleep {0.01 + number / 200:.3f}") for number in range(100)]

    engine = run(job_of(*tasks, count=2), tmp_path)

    for snapshot in engine.allocations():
        assert snapshot.client_status == "complete"
        for name in snapshot.tasks:
            told = [type(event).__name__ for event in events_of(engine, snapshot.id, name)]
            assert told == ["Received", "TaskSetup", "Started", "Terminated"]


# --- what goes wrong meanwhile ---


def test_a_log_that_cannot_be_written_ends_every_process(tmp_path):
    log = FullLog("1.1.2")

    def fail(supervisor: Supervisor) -> None:
        log.is_full = True
        supervisor.stop()

    with pytest.raises(LogError):
        run(job_of(script("a", FOREVER), script("b", FOREVER)), tmp_path, fail, engine=Engine(log))
    assert left_in(tmp_path) == []


def test_without_its_executor_a_process_is_ended_and_started_again(tmp_path):
    async def kill_executor(supervisor: Supervisor) -> None:
        os.kill(handles(supervisor.engine)["main"]["Pid"], signal.SIGKILL)
        await eventually(lambda: supervisor.engine.task(only(supervisor.engine), "main").restarts == 1)

    engine = run(job_of(script("main", FOREVER), attempts=1), tmp_path, kill_executor, stop)

    (lost, _) = [e for e in events_of(engine, only(engine), "main") if isinstance(e, events.Terminated)]
    assert lost.message == "the executor of the process is gone"
    assert engine.task(only(engine), "main").restarts == 1


def test_a_clock_that_goes_back_does_not_stop_anything(tmp_path):
    clock = ManualClock(10 * NS)
    engine = Engine(MemoryLog("1.1.2"), clock=clock)

    def go_back(supervisor: Supervisor) -> None:
        clock._time_ns -= 5 * NS
        supervisor.stop()

    run(job_of(script("main", FOREVER)), tmp_path, go_back, engine=engine)

    assert engine.task(only(engine), "main").state == "dead"


def test_a_process_whose_end_somebody_else_told_is_ended(tmp_path):
    engine = run(job_of(script("main", FOREVER)), tmp_path, report(inputs.Exited(exit_code=0)))

    assert types_of(engine, "main")[-1] == "Terminated"
    assert engine.snapshot(only(engine)).client_status == "complete"


def test_what_somebody_else_placed_is_left_alone(tmp_path):
    engine = Engine(MemoryLog("1.1.2"))
    job = job_of(script("main", FOREVER))
    engine.place({"ID": "other", "JobID": "example", "TaskGroup": "group", "Job": job})
    engine.report("other", "", inputs.PlacementReceived())

    run(job_of(script("main", "true")), tmp_path, engine=engine)

    assert engine.task("other", "main").state == "pending"
    assert not (tmp_path / "other").exists()


# --- after the supervisor was away ---


async def leave(job, directory: Path, engine: Engine) -> None:
    """Run a job until all of its tasks run, and be gone as after a kill: nothing is stopped, nothing is recorded."""
    supervisor = Supervisor(engine, directory)
    supervisor.place(job)
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: is_settled(supervisor, directory))
    for process in supervisor._processes.values():
        # As if this process were gone: it can neither signal the executor nor wait for it.
        process._parent.returncode = 0
        os.close(process._pidfd)
        process._pidfd = None
    running.cancel()
    await asyncio.wait({running})


def found_again(job, directory: Path, *, meanwhile=lambda _: None, acts=(stop,)) -> Engine:
    engine = Engine(MemoryLog("1.1.2"), seed=1)

    async def both() -> None:
        await leave(job, directory, engine)
        await asyncio.to_thread(meanwhile, engine)
        await supervised(job, directory, *acts, engine=engine)

    asyncio.run(both())
    return engine


def test_a_process_that_still_runs_is_reattached_and_no_event_tells_of_it(tmp_path):
    engine = found_again(job_of(script("main", f"echo $$; {FOREVER}")), tmp_path)

    assert handles(engine)["main"]["Found"] == "reattached"
    assert types_of(engine, "main") == ["Received", "Task Setup", "Started", "Killing", "Terminated", "Killed"]
    assert len(output(tmp_path, only(engine)).read_text(encoding="utf-8").split()) == 1


def test_how_a_process_ended_meanwhile_is_known(tmp_path):
    text = f"{READY}; until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 6"

    def let_it_end(engine: Engine) -> None:
        (tmp_path / "go").touch()
        wait_until_gone(engine)

    engine = found_again(job_of(script("main", text)), tmp_path, meanwhile=let_it_end, acts=())

    assert handles(engine)["main"]["Found"] == "ended"
    told = events_of(engine, only(engine), "main")[-2]
    assert isinstance(told, events.Terminated)
    assert told.exit_code == 6


def wait_until_gone(engine: Engine) -> None:
    handle = handles(engine)["main"]
    until(lambda: not is_running(handle["Pid"], handle["StartTime"]))


def test_a_process_that_lost_its_executor_is_ended_and_started_anew(tmp_path):
    def kill_executor(engine: Engine) -> None:
        os.kill(handles(engine)["main"]["Pid"], signal.SIGKILL)
        wait_until_gone(engine)

    engine = found_again(job_of(script("main", f"echo $$; {FOREVER}")), tmp_path, meanwhile=kill_executor)

    told = ["Received", "Task Setup", "Started", "Failed Restoring Task", "Started", "Killing", "Terminated", "Killed"]
    assert types_of(engine, "main") == told
    assert len(output(tmp_path, only(engine)).read_text(encoding="utf-8").split()) == 2
    assert any(b'"Found":"lost"' in msgspec.json.encode(record) for record in engine.history(only(engine)))


def test_a_delay_that_is_over_meanwhile_ends_in_a_start(tmp_path):
    job = job_of(script("main", "exit 1"), attempts=1)
    job["TaskGroups"][0]["RestartPolicy"]["Delay"] = NS // 2
    clock = ManualClock(NS)
    engine = Engine(MemoryLog("1.1.2"), clock=clock, seed=1)

    async def both() -> None:
        supervisor = Supervisor(engine, tmp_path)
        supervisor.place(job)
        running = asyncio.create_task(supervisor.run())
        await eventually(lambda: engine.next_due() is not None)
        running.cancel()
        await asyncio.wait({running})
        clock.advance(NS)
        await supervised(job, tmp_path, engine=engine)

    asyncio.run(both())

    assert types_of(engine, "main").count("Started") == 2


def test_another_process_with_the_same_pid_is_not_touched(tmp_path):
    stranger = os.getpid()

    process = Process(tmp_path, ExecutorHandle(stranger, 1))

    assert not process.is_alive
    (tmp_path / "executor").write_text(f"pid {stranger}\nstart_time 1\n", encoding="utf-8")
    process.end_orphan()
    process.send("SIGKILL")


def test_a_process_that_was_prepared_and_never_told_to_go_starts_nothing(tmp_path):
    process = Process.prepare(TaskDirectory(tmp_path, "alloc", "main"), "/bin/true", ["true"], {}, is_bound=False)
    process.send("SIGINT")  # which closes the way to it

    asyncio.run(eventually(lambda: left_in(tmp_path) == []))

    assert process.status == {}
    process._release()


def test_what_stands_is_not_placed_again_and_what_was_stopped_is(tmp_path):
    engine = Engine(MemoryLog("1.1.2"), seed=1)
    job = job_of(script("main", FOREVER), script("short", "true"))

    for _ in range(2):
        run(job, tmp_path, stop, engine=engine)
    assert len(engine.allocations()) == 2
    ended = job_of(script("main", "true"))
    for _ in range(2):
        run({**ended, "ID": "ended"}, tmp_path, engine=engine)
    assert len(engine.allocations()) == 3
