"""Ask by nomad-tools: its library, and its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nomad_tools.nomadlib import Alloc, NomadConn
from telling import ALLOC, COUNT, FACTS, JOB, TASK, ids, comparable, tell

client = NomadConn(namespace="default")


def stream():
    names: set[str] = set()
    with client.stream("event/stream", params={"topic": "Allocation", "index": 1}) as reply:
        for line in reply.iter_lines():
            names |= {event["Payload"]["Allocation"]["ID"] for event in json.loads(line or b"{}").get("Events") or ()}
            if len(names) >= COUNT:
                break
    return sorted(names)


def watch():
    command = [Path(sys.executable).parent / "nomadtools", "watch", "--no-follow", "stopped", FACTS["ended"]]
    environment = os.environ | {"NOMAD_ADDR": FACTS["mirror"]}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


tell("list", "NomadConn.get", lambda: ids(client.get("allocations")))
tell("prefix", "NomadConn.get(prefix)", lambda: ids(client.get("allocations", params={"prefix": ALLOC[:8]})))
tell("read", "NomadConn.get, Alloc", lambda: comparable(Alloc(client.get(f"allocation/{ALLOC}")).asdict()))
tell("jobs", "NomadConn.get", lambda: ids(client.get("jobs")))
tell(
    "job",
    "find_last_not_stopped_job",
    lambda: [client.find_last_not_stopped_job(JOB)[name] for name in ("ID", "Version", "Status")],
)
tell("allocations of a job", "NomadConn.get", lambda: ids(client.get(f"job/{JOB}/allocations")))
tell("stream", "NomadConn.stream", stream)
tell(
    "logs",
    "NomadConn.stream",
    lambda: client.stream(f"client/fs/logs/{ALLOC}", params={"task": TASK, "type": "stdout", "plain": True}).text,
)
tell("version", "nomad_version", lambda: client.nomad_version)
tell("watch", "nomadtools watch stopped", watch)
