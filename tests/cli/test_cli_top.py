"""``taskfold top`` shows the tasks of any source, and the past of each, on a screen that keys move."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import taskfold as tf
from support.command_line import run
from taskfold import events

pytest.importorskip("textual", reason="the extra tui is not installed")

from textual.widgets import DataTable, Input, Static

from taskfold.cli._top_screen import SORTS, TopApp
from taskfold.cli.top import screen_of

STREAM = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"
SIZE = (160, 40)


def drive(app, steps):
    """Run steps on a screen; return what they return."""

    async def whole():
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause()
            return await steps(pilot)

    return asyncio.run(whole())


def rows_of(app, table="#tasks"):
    widget = app.query_one(table, DataTable)
    return [[str(cell) for cell in widget.get_row_at(place)] for place in range(widget.row_count)]


def text_of(app, name):
    return str(app.query_one(name, Static).render())


def press(*keys):
    async def steps(pilot):
        await pilot.press(*keys)
        await pilot.pause()

    return steps


@pytest.fixture
def screen():
    with ExitStack() as stack:
        yield screen_of((str(STREAM),), None, None, stack)


@pytest.fixture
def engine():
    engine = tf.Engine(dialect="1.1.2", clock=tf.ManualClock(10**18))
    engine.place({"ID": "aaaa", "JobID": "web", "TaskGroup": "front", "ClientStatus": "running"})
    engine.place({"ID": "bbbb", "JobID": "batch", "ClientStatus": "running"})
    engine.record("aaaa", "nginx", events.Started())
    engine.record("bbbb", "sum", events.Started())
    engine.record("bbbb", "sum", events.Terminated(exit_code=1))
    engine.record("bbbb", "sum", events.Restarting(start_delay_ns=10**9))
    return engine


def test_every_task_of_a_recorded_stream_has_a_row(screen):
    async def steps(pilot):
        rows = rows_of(pilot.app)
        snapshots = list(tf.replay(STREAM).snapshots())
        assert len(rows) == sum(len(snapshot.tasks) or 1 for snapshot in snapshots)
        assert {(row[0], row[3], row[5]) for row in rows} == {
            (snapshot.id[:8], name, str(task.restarts))
            for snapshot in snapshots
            for name, task in snapshot.tasks.items()
        }
        assert "live" in text_of(pilot.app, "#point")

    drive(screen, steps)


def test_a_filter_leaves_the_rows_that_have_all_its_words(engine):
    async def steps(pilot):
        await pilot.press("slash", *"web", "space", *"nginx")
        await pilot.pause()
        assert [row[3] for row in rows_of(pilot.app)] == ["nginx"]
        await pilot.press("enter", "escape")
        await pilot.pause()
        assert len(rows_of(pilot.app)) == 2

    drive(TopApp(engine, "memory"), steps)


def test_each_sort_orders_the_rows_by_its_key(engine):
    async def steps(pilot):
        orders = []
        for _ in SORTS:
            orders.append([row[3] for row in rows_of(pilot.app)])
            await pilot.press("s")
            await pilot.pause()
        assert orders == [["sum", "nginx"], ["sum", "nginx"], ["sum", "nginx"], ["nginx", "sum"]]

    engine.clock.advance(10**9)
    engine.record("bbbb", "sum", events.Started())
    drive(TopApp(engine, "memory"), steps)


def test_a_write_is_shown_without_a_key(engine):
    async def steps(pilot):
        engine.record("aaaa", "nginx", events.Terminated(exit_code=7))
        for _ in range(300):
            await pilot.pause(0.1)
            if any("Exit Code: 7" in row[7] for row in rows_of(pilot.app)):
                return
        raise AssertionError(rows_of(pilot.app))

    drive(TopApp(engine, "memory"), steps)


def test_the_events_of_the_chosen_task_are_its_whole_history(engine):
    async def steps(pilot):
        await pilot.press("slash", *"sum", "enter", "e")
        await pilot.pause()
        shown = [row[4] for row in rows_of(pilot.app, "#events") if row[2] == "sum"]
        assert shown == ["Started", "Terminated", "Restarting"]
        await pilot.press("e")
        assert pilot.app.query_one("#events").has_class("hidden")

    drive(TopApp(engine, "memory"), steps)


def test_a_step_back_shows_the_state_before_the_write_and_its_events_up_to_there(engine):
    async def steps(pilot):
        app = pilot.app
        await pilot.press("slash", *"sum", "enter", "e", "left")
        await pilot.pause()
        [row] = rows_of(app)
        assert row[4:6] == ["running", "0"]
        assert [each[4] for each in rows_of(app, "#events")] == ["placed", "Started", "Terminated"]
        assert "write 5 of 6" in text_of(app, "#point")
        await pilot.press("home")
        await pilot.pause()
        assert "write 1 of 6" in text_of(app, "#point")
        await pilot.press("right", "shift+right")
        await pilot.pause()
        assert "write 6 of 6" in text_of(app, "#point")
        await pilot.press("end")
        await pilot.pause()
        assert "live" in text_of(app, "#point")

    drive(TopApp(engine, "memory"), steps)


def test_a_point_is_an_index_a_time_or_a_position_and_a_wrong_one_is_told(engine):
    async def steps(pilot):
        await pilot.press("g", *"@3", "enter")
        await pilot.pause()
        assert "write 3 of 6" in text_of(pilot.app, "#point")
        await pilot.press("g", *"soon", "enter")
        await pilot.pause()
        assert "write 3 of 6" in text_of(pilot.app, "#point")
        assert ["'soon' is neither" in note.message for note in pilot.app._notifications] == [True]

    drive(TopApp(engine, "memory"), steps)


def test_help_names_every_key(engine):
    async def steps(pilot):
        await pilot.press("question_mark")
        await pilot.pause()
        text = str(pilot.app.screen.query_one("#help", Static).render())
        for key in ("enter", "/", "s ", "left, right", "home", "end, f", "g ", "?", "q "):
            assert key in text
        await pilot.press("escape")
        await pilot.pause()
        assert rows_of(pilot.app)

    drive(TopApp(engine, "memory"), steps)


def test_the_document_has_every_key_that_the_screen_has():
    page = (
        (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8").partition("## The live screen")[2]
    )
    rows = re.findall(r"^\| (.+) \| (.+) \|$", page, re.MULTILINE)[2:]
    keys = {key for row in rows for key in re.findall(r"`([^`]+)`", row[0])}
    bound = {key for binding in TopApp.BINDINGS for key in binding.key.split(",")}
    named = {"slash": "/", "question_mark": "?"}

    assert keys - {"up", "down"} == {named.get(key, key) for key in bound} - {"shift+left", "shift+right", "escape"}


def test_names_with_markup_are_shown_as_text(engine):
    engine.place({"ID": "cccc", "JobID": "[b]x[/b]\x1b[31m", "ClientStatus": "pending"})
    engine.record("cccc", "[link=x]é🙂", events.Received())

    async def steps(pilot):
        await pilot.press("slash", *"link", "enter", "e")
        await pilot.pause()
        [row] = rows_of(pilot.app)
        assert (row[1], row[3]) == ("[b]x[/b]\\x1b[31m", "[link=x]é🙂")
        assert isinstance(pilot.app.query_one("#entry", Input).value, str)

    drive(TopApp(engine, "memory"), steps)


def test_a_log_that_another_engine_writes_is_followed(tmp_path):
    path = tmp_path / "x.db"
    with tf.Engine.open(path, dialect="1.1.2") as writer, ExitStack() as stack:
        writer.place({"ID": "aaaa", "JobID": "web"})

        async def steps(pilot):
            writer.record("aaaa", "nginx", events.Started())
            for _ in range(300):
                await pilot.pause(0.1)
                if [row[3] for row in rows_of(pilot.app)] == ["nginx"]:
                    return
            raise AssertionError(rows_of(pilot.app))

        drive(screen_of((str(path),), None, None, stack), steps)


def test_an_agent_is_followed_by_its_address():
    from taskfold.http import App, running

    engine = tf.Engine(dialect="1.1.2")
    engine.place({"ID": "aaaaaaaa-0000-4000-8000-000000000000", "JobID": "web", "Namespace": "default"})
    with running(App(engine)) as server:
        stack = ExitStack()

        async def steps(pilot):
            for _ in range(300):
                await pilot.pause(0.1)
                if [row[1] for row in rows_of(pilot.app)] == ["web"]:
                    return
            raise AssertionError((rows_of(pilot.app), text_of(pilot.app, "#counts")))

        with stack:
            drive(screen_of((server.url,), None, None, stack), steps)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-",), "a live screen needs a terminal"),
        ((), "a live screen needs a terminal"),
    ],
)
def test_without_a_terminal_it_says_what_to_use(arguments, sentence):
    result = run("top", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("-",), "Unanswerable", "standard input has the keys"),
        (("nowhere.db",), "SourceError", "nowhere.db"),
        (("nowhere.ndjson",), "SourceError", "nowhere.ndjson"),
        (("http://127.0.0.1:1",), "SourceUnavailable", "127.0.0.1:1"),
    ],
)
def test_a_source_that_cannot_be_read_is_told(arguments, error, sentence):
    with ExitStack() as stack, pytest.raises(Exception, match=sentence) as caught:
        screen_of(arguments, None, None, stack)
    assert error in {kind.__name__ for kind in type(caught.value).__mro__}


def test_on_a_real_terminal_it_draws_and_ends_with_q():
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="30")
        os.execv(sys.executable, [sys.executable, "-m", "taskfold", "top", str(STREAM)])  # noqa: S606 - our own
    output, end, has_asked = b"", time.monotonic() + 60, False
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                output += os.read(terminal, 65536)
            except OSError:
                break
        if b"restarts" in output and b"live" in output and not has_asked:
            has_asked = True
            os.write(terminal, b"q")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, output[-2000:]
    assert has_asked
