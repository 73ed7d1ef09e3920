"""The driver raw_exec keeps what every driver keeps."""

from __future__ import annotations

import os
import signal

from support.supervising import FOREVER
from taskfold.run.raw_exec import DRIVER, RawExec
from taskfold.testing import DriverContract

STUBBORN = f"trap '' HUP INT TERM; {FOREVER}"


class TestRawExec(DriverContract):
    def make_driver(self):
        return RawExec(is_bound=True)

    def make_task(self, run):
        text = STUBBORN if run.ignores_kill else FOREVER if run.after_ns is None else f"exit {run.exit_code}"
        command = "no-such-command" if run.fails_to_start else "/bin/sh"
        return {"Driver": DRIVER, "Config": {"command": command, "args": ["-c", text]}}

    def is_ready(self, directory):
        return (directory / "ready").exists()

    def lose(self, handle):
        os.kill(handle["Pid"], signal.SIGKILL)
