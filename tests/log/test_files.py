"""What is made on disk is its owner's alone, whatever the umask, and nothing is written through a link."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.supervising import job_of, run, script
from taskfold import Engine, LogError, events
from taskfold.log.files import new_file, own_file, own_folder
from taskfold.run.task_directory import TaskDirectory

LOGS = ("tasks.db", "tasks.jsonl")
SECRET = b"somebody else's"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Have a umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the modes of all that is in a folder."""
    return {entry.name: f"{stat.S_IMODE(entry.lstat().st_mode):o}" for entry in folder.rglob("*")}


def end_and_compact(engine: Engine, alloc: str) -> None:
    """End an allocation, and have the log written anew without it."""
    engine.record(alloc, "web", events.Started())
    engine.record(alloc, "web", events.NotRestarting())
    engine.collect(alloc)
    assert engine.compact()


def write_and_compact(log: Path) -> None:
    """Write a log, have records in all of its files, and write it anew."""
    with Engine.open(log, dialect="1.1.2") as engine:
        for name in ("a", "b"):
            engine.place({"ID": name})
        end_and_compact(engine, "a")
        engine.record("b", "web", events.Received())
        # While the log is open, so that what is there only then is looked at, too.
        assert {f"{log.name}-wal", f"{log.name}-shm", f"{log.name}-lock"} <= modes(
            log.parent
        ).keys() or log.suffix != ".db"
        assert set(modes(log.parent).values()) == {"600"}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o277, 0o777], ids=oct)
@pytest.mark.parametrize("name", LOGS)
def test_a_log_and_what_is_beside_it_is_its_owners_alone(tmp_path, name, mask):
    with umask(mask):
        write_and_compact(tmp_path / name)

    assert set(modes(tmp_path).values()) == {"600"}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777], ids=oct)
def test_what_a_task_writes_is_its_owners_alone_and_the_task_keeps_the_umask(tmp_path, mask):
    with umask(mask):
        run(job_of(script("main", "umask")), tmp_path / "run" / "deep")

    found = modes(tmp_path)
    files = {entry: found.pop(entry) for entry in ("main.stdout.0", "main.stderr.0", "executor")}
    assert set(files.values()) == {"600"}
    assert set(found.values()) == {"700"}
    (output,) = tmp_path.rglob("main.stdout.0")
    assert int(output.read_text(encoding="utf-8"), 8) == mask


@pytest.mark.parametrize("name", LOGS)
def test_a_log_whose_owner_widened_its_mode_keeps_it(tmp_path, name):
    log = tmp_path / name
    write_and_compact(log)
    log.chmod(0o644)

    with Engine.open(log) as engine:
        end_and_compact(engine, "b")

    assert modes(tmp_path)[name] == "644"


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    (tmp_path / "run").mkdir(0o750)

    own_folder(tmp_path / "run")

    assert modes(tmp_path) == {"run": "750"}


def test_a_log_in_another_place_is_written_where_its_link_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "tasks.jsonl"
    link.symlink_to(tmp_path / "disk" / "tasks.jsonl")

    with Engine.open(link, dialect="1.1.2") as engine:
        engine.place({"ID": "a"})

    with Engine.open(tmp_path / "disk" / "tasks.jsonl") as engine:
        assert "a" in engine.store.fold


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize(
    ("name", "beside"), [("tasks.db", "-lock"), ("tasks.db", "-new"), ("tasks.jsonl", "-new")], ids=str
)
def test_a_link_in_the_place_of_a_file_of_ours_changes_nothing_of_another_file(tmp_path, name, beside, link):
    victim = tmp_path / "elsewhere" / "victim"
    victim.parent.mkdir()
    victim.write_bytes(SECRET)
    victim.chmod(0o640)
    folder = tmp_path / "shared"
    folder.mkdir()
    link(victim, folder / f"{name}{beside}")

    if beside == "-lock" and link is os.symlink:
        with pytest.raises(LogError, match=r"tasks\.db-lock is a symbolic link, .*: remove it"):
            Engine.open(folder / name, dialect="1.1.2")
    else:
        with Engine.open(folder / name, dialect="1.1.2") as engine:
            engine.place({"ID": "a"})
            end_and_compact(engine, "a")

    assert victim.read_bytes() == SECRET
    assert modes(victim.parent) == {"victim": "640"}


@pytest.mark.parametrize("name", ["alloc/logs/main.stdout.0", "alloc/logs/main.stderr.0", "main/executor.new"])
def test_a_link_in_the_directory_of_a_task_leads_nowhere(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(SECRET)
    engine = Engine(dialect="1.1.2")

    make = TaskDirectory.make

    def prepare(directory: TaskDirectory) -> None:
        make(directory)
        (directory.path.parent / name).symlink_to(victim)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TaskDirectory, "make", prepare)
        run(job_of(script("main", "echo x; echo y >&2")), tmp_path / "run", engine=engine)

    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize("make", [own_file, own_folder])
def test_a_link_is_named_and_the_cure_with_it(tmp_path, make):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")

    with pytest.raises(OSError, match="link is a symbolic link, and taskfold writes through none: remove it"):
        make(tmp_path / "link")


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(OSError, match="run belongs to another user, who could change its contents: remove it"):
        own_folder(tmp_path / "run")


def test_a_new_file_takes_the_place_of_whatever_was_there(tmp_path):
    (tmp_path / "file").write_bytes(SECRET)
    os.link(tmp_path / "file", tmp_path / "kept")

    new_file(tmp_path / "file").close()

    assert (tmp_path / "file").read_bytes() == b""
    assert (tmp_path / "kept").read_bytes() == SECRET


# --- nothing else makes files ---

ALLOWED = {
    "log/files.py": "it is the one that makes them",
    "cli/_guard.py": "/dev/null",
    "cli/demo.py": "examples are for everybody, and are written where somebody asked for them",
    "log/postgres/log.py": "/dev/null",
    "run/executor.py": "it is a script that imports nothing of ours; a test above looks at what it writes",
    "testing/plugin.py": "a picture is written where somebody asked for it",
    "testing/stories.py": "stories are written anew where they lie, in somebody's own tests",
    "cli/timeline.py": "a picture is written where somebody asked for it",
    "pictures/timeline.py": "a picture is written where somebody asked for it",
    "columnar/exporting.py": "tables are written where somebody asked for them, for everybody who may read there",
    "cli/run.py": "a temporary directory is its owner's alone",
}
WRITING = set("wax+")
MODES = WRITING | set("rbt")
MAKING = {"write_text", "write_bytes", "mkdir", "makedirs", "touch", "mkstemp", "mkdtemp", "NamedTemporaryFile"}


def makes_files(call: ast.Call) -> bool:
    """Tell whether a call makes a file or a folder, or opens one to write it."""
    function = call.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    parts = [node for part in (*call.args, *call.keywords) for node in ast.walk(part)]
    told = [node.value for node in parts if isinstance(node, ast.Constant)]
    flags = {node.attr for node in parts if isinstance(node, ast.Attribute)}
    writes = any(isinstance(value, str) and set(value) <= MODES and set(value) & WRITING for value in told)
    return name in MAKING or (
        name in {"open", "FileIO"} and (writes or bool(flags & {"O_CREAT", "O_WRONLY", "O_RDWR"}))
    )


def makers(source: str) -> list[int]:
    """Return the lines of a source that make files."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and makes_files(node)]


PACKAGE = Path(__file__).parents[2] / "engine" / "taskfold"


def test_nothing_but_the_helper_makes_files():
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := makers(path.read_text(encoding="utf-8")))
    }

    assert found.keys() == ALLOWED.keys(), "use taskfold.log.files"


@pytest.mark.parametrize(
    "source",
    ['path.open("wb")', 'open(name, "a")', "os.open(name, os.O_WRONLY)", "path.mkdir()", 'path.open(mode="r+b")'],
)
def test_the_check_finds_what_makes_files(source):
    assert makers(source) == [1]


@pytest.mark.parametrize("source", ['path.open("rb")', "open(name)", "os.open(name, os.O_RDONLY)"])
def test_the_check_lets_readers_be(source):
    assert makers(source) == []
