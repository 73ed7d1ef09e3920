"""A PostgreSQL server of the tests' own: in a temporary folder, on loopback, ended with the tests.

A server refuses to run as root: then it runs as ``postgres``, or as ``nobody``. Run as a program, this module installs
the server where it is missing, if the machine has apt; the tests never use a server that runs already.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/pgsql/bin")
"""Where packages put the programs of the server, beside PATH."""


def program(name: str) -> str | None:
    """Return where a program of the server is; None where it is not."""
    found = shutil.which(name)
    if found is None:
        places = (place for folder in FOLDERS for place in sorted(Path("/").glob(folder[1:]), reverse=True))
        found = next((str(place / name) for place in places if (place / name).exists()), None)
    return found


class Server:
    """A server that runs, and the databases in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    @property
    def url(self) -> str:
        return f"postgresql://taskfold@127.0.0.1:{self.port}/postgres"

    def new_schema(self) -> str:
        """Return the URL of a schema that is empty: a log of its own."""
        import psycopg

        name = f"log_{next(self._numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}?options=-csearch_path%3D{name}"

    def begin(self) -> None:
        """Make the folder of the server, and start it."""
        run(
            self.folder, [program("initdb"), "-D", "data", "-U", "taskfold", "--auth=trust", "-E", "UTF8", "--locale=C"]
        )
        self.start()

    def start(self) -> None:
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder), "-c", "max_connections=200"]
        command = [*as_user(), program("postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + 60
        while subprocess.run(
            [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: at once (SIGINT), or as if the machine had gone (SIGQUIT)."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None


def as_user() -> list[str]:
    """Return what comes before a command that must not be run as root."""
    if os.geteuid():
        return []
    user = server_user()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def server_user() -> pwd.struct_passwd:
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def run(folder: Path, command: list[str | None]) -> None:
    done = subprocess.run([*as_user(), *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def missing() -> str:
    """Say what keeps the server from running here; empty when nothing does."""
    if absent := [name for name in ("initdb", "postgres", "pg_isready") if program(name) is None]:
        return f"PostgreSQL is not installed here ({', '.join(absent)} not found)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv here to run it as somebody else"
    return ""


@contextmanager
def server() -> Iterator[Server]:
    """Run a server. Skips, loudly, where there is none; in CI that is a failure."""
    if problem := missing():
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    # Not under the folder of pytest, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="taskfold-postgres-"))
    try:
        if os.geteuid() == 0:
            user = server_user()
            os.chown(folder, user.pw_uid, user.pw_gid)
        made = Server(folder)
        made.begin()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install() -> int:
    """Install the server's programs where they are missing, and say what is done."""
    if not missing():
        return 0
    apt = shutil.which("apt-get")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if apt is None or (prefix and shutil.which("sudo") is None):
        print(f"{missing()}: install it with this machine's package manager; its tests are skipped until then")  # noqa: T201 - a program says what it does
        return 0
    # In runlevel 1 Debian's package starts no server of its own.
    setting = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "postgresql"]):
        subprocess.run([*prefix, *setting, apt, *command], check=False)
    if problem := missing():
        print(f"{problem}; apt-get could not")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(install())
