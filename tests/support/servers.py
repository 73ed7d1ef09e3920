"""Servers of ours, as processes of their own, and connections to them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

LATEST_S = 120
"""How long anything may take on a machine that has much else to do: only what hangs takes longer."""

_LIMITED = """
import os, resource, sys
resource.setrlimit(int(sys.argv[1]), (int(sys.argv[2]),) * 2)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def served(*arguments, limits=None, cwd=None, **more):
    """Run `taskfold serve` on a free port, with hard limits of `resource`; yield the process and its URL."""
    command = [sys.executable, "-m", "taskfold", "serve", "--bind", "127.0.0.1:0", *map(str, arguments)]
    for kind, limit in (limits or {}).items():
        command = [sys.executable, "-c", _LIMITED, str(kind), str(limit), *command]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | more, cwd=cwd)
    try:
        yield process, url_of(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def url_of(process):
    """Return where a process serves, when it says so."""
    told = ""
    while not (found := re.search(r"at (https?://\S+|unix:\S+)$", told)):
        told = process.stderr.readline().strip()
        assert told, "it ended before it served"
    return found[1]


@contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=LATEST_S) as opened:
        yield opened


def received(opened):
    """Return everything until the other side closes."""
    data = b""
    try:
        while part := opened.recv(65_536):
            data += part
    except ConnectionResetError:
        pass
    return data


def until(condition):
    """Wait until something is so."""
    end = time.monotonic() + LATEST_S
    while not condition():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.005)
