"""The files of an allocation: what is read of them, and that nothing leads out of its directory."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from taskfold.run.allocation_files import AllocationFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the directory of an allocation, beside something that is none of it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("outside")
    root = tmp_path / "allocation"
    for name in ("alloc/logs", "alloc/data", "web/local", "web/secrets"):
        (root / name).mkdir(parents=True)
    (root / "alloc/logs/web.stdout.0").write_text("hello\n")
    (root / "web/local/page.html").write_text("<p>")
    (root / "web/local/core").write_bytes(b"\0\1\2\3\4")
    (root / "web/secrets/key").write_text("secret")
    return root


def test_a_directory_is_listed_by_name_with_what_is_in_it(folder: Path) -> None:
    files = AllocationFiles(folder)

    assert [(entry.name, entry.is_directory) for entry in files.entries("/")] == [("alloc", True), ("web", True)]
    [entry] = files.entries("alloc/logs")
    assert (entry.name, entry.status.st_size, entry.is_directory) == ("web.stdout.0", 6, False)
    assert files.entries("/alloc/data/") == []


def test_what_is_at_a_path_is_told_with_its_type(folder: Path) -> None:
    files = AllocationFiles(folder)

    assert files.stat("/").name == "allocation"
    assert files.stat("web").is_directory
    types = {path: files.stat(path).content_type for path in ("alloc/logs/web.stdout.0", "web/local/page.html")}
    assert types == {"alloc/logs/web.stdout.0": "text/plain; charset=utf-8", "web/local/page.html": "text/html"}
    assert files.stat("web/local/core").content_type == "application/octet-stream"
    assert files.stat("web/secrets/key").content_type == "", "a secret is not looked at"


@pytest.mark.parametrize("path", ["..", "/..", "alloc/../..", "../outside/secret", "alloc/../../outside/secret"])
def test_a_path_that_leaves_the_directory_is_refused(folder: Path, path: str) -> None:
    files = AllocationFiles(folder)
    for ask in (files.entries, files.stat, files.open):
        with pytest.raises(PermissionError, match="Path escapes the alloc directory"):
            ask(path)


def test_a_path_begins_at_the_directory_whatever_it_looks_like(folder: Path) -> None:
    files = AllocationFiles(folder)
    for path in ("/alloc/logs/web.stdout.0", "alloc//logs/./web.stdout.0", "web/../alloc/logs/web.stdout.0"):
        with files.open(path) as file:
            assert file.read() == b"hello\n"
    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] /etc/passwd: no such file or directory$"):
        files.open("/etc/passwd")


def test_no_link_is_followed_wherever_it_stands_and_leads(folder: Path) -> None:
    files = AllocationFiles(folder)
    (folder / "web/local/out").symlink_to(folder.parent / "outside")
    (folder / "web/local/file").symlink_to(folder.parent / "outside" / "secret")
    (folder / "web/local/in").symlink_to("page.html")

    for path in ("web/local/out/secret", "web/local/file", "web/local/in"):
        with pytest.raises(OSError, match=r"link|not a directory"):
            files.open(path)
    with pytest.raises(OSError, match=r"link|not a directory"):
        files.entries("web/local/out")
    assert stat.S_ISLNK(files.stat("web/local/out").status.st_mode), "it is told that it is one"
    assert files.stat("web/local/out").content_type == ""


def test_a_directory_that_is_a_link_itself_is_not_entered(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder.parent / "outside")
    with pytest.raises(OSError, match=r"link|not a directory"):
        AllocationFiles(link).open("secret")


def test_what_is_no_file_is_not_opened_and_nobody_waits_for_it(folder: Path) -> None:
    files = AllocationFiles(folder)
    os.mkfifo(folder / "web/local/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder / "web/local")  # the path of a socket must be short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        for path in ("web/local/pipe", "web/local/socket", "web/local", "/"):
            with pytest.raises(OSError, match=r"is no file|no such device"):
                files.open(path)
    assert {entry.name for entry in files.entries("web/local")} >= {"pipe", "socket"}


def test_secrets_are_not_read(folder: Path) -> None:
    files = AllocationFiles(folder)
    with pytest.raises(PermissionError, match="Reading secret file prohibited: /web/secrets/key"):
        files.open("/web/secrets/key")
    (folder / "alloc" / "secrets").mkdir()
    (folder / "alloc/secrets/word").write_text("shared")
    with files.open("alloc/secrets/word") as file:
        assert file.read() == b"shared", "a name of a task's own choice is no secret"


def test_errors_do_not_tell_where_the_directory_is(folder: Path) -> None:
    files = AllocationFiles(folder)
    for path in ("nothing", "alloc/logs/web.stdout.0/x", "a\0b", "x" * 300):
        with pytest.raises(OSError) as told:  # noqa: PT011 - each has its own words
            files.open(path)
        assert str(folder) not in str(told.value)


def test_a_directory_with_too_many_entries_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskfold.run.allocation_files._MOST_ENTRIES", 2)
    files = AllocationFiles(folder)
    assert len(files.entries("/")) == 2
    (folder / "third").mkdir()
    with pytest.raises(OSError, match="has more than 2 entries"):
        files.entries("/")
