"""Have clients ask a server, and compare what they get with the recorded agent."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Final

from taskfold import Engine, ingest
from taskfold.http import App, running
from taskfold.http.serve.upstream import Upstream
from taskfold.recording.settings import AgentSettings

__all__ = ["CLIENTS", "RESULTS", "SCRIPTS", "Client", "Result", "ask", "read_results", "table", "write_results"]

ROOT: Final = Path(__file__).parent.parent.parent
RECORDING: Final = ROOT / "tests" / "data" / "clients" / "1.1.2"
RESULTS: Final = ROOT / "tests" / "data" / "clients" / "results.json"
SCRIPTS: Final = Path(__file__).parent

INDEX: Final = 56
"""The index of the recorded agent when it was asked."""

ALLOC, TASK, JOB, ENDED_JOB = "2902818a-93ea-964b-31e4-301c0bf05874", "web", "svc", "ok"
OTHER: Final = "b09fdd32-c3df-6819-ba54-c9f0ba25bd04"

WORKS: Final = "yes"
DIFFERS: Final = "differs"
MINUTES: Final = 5


@dataclass(frozen=True)
class Client:
    """A client, and where it comes from."""

    name: str
    package: str
    """The package and its version, as its index names them."""
    script: str
    index: str = "PyPI"


CLIENTS: Final = (
    Client("python-nomad", "python-nomad==2.1.0", "ask_python_nomad.py"),
    Client("nomadpy", "nomadpy==0.2.0", "ask_nomadpy.py"),
    Client("nomad-tools", "nomad-tools==0.5.8", "ask_nomad_tools.py"),
    Client("dagster-nomad", "dagster-nomad==0.1.2", "ask_dagster_nomad.py"),
    Client("nomad-client", "nomad-client@0.0.2", "ask_nomad_client.ts", "npm"),
)


@dataclass(frozen=True)
class Result:
    """What came of one question."""

    question: str
    call: str
    """The call of the client."""
    result: str
    """``yes``; ``differs``; or the status and the exception that the client got."""


# --- what is right ---


def _lines(name: str) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress((RECORDING / name).read_bytes()).split(b"\n") if line]


def _exchanges() -> dict[str, tuple[int, str]]:
    """Return the first answer of the recorded agent to each path."""
    answers: dict[str, tuple[int, str]] = {}
    for command in _lines("commands.jsonl.gz"):
        for of in command["requests"]:
            answers.setdefault(of["path"].partition("?")[0], (of["status"], of["answer"]))
    return answers


def expectations() -> dict[str, Any]:
    """Return what is right, by question, from the bodies and the answers of the recorded agent."""
    bodies = {body["ID"]: body for body in _lines("bodies-before.jsonl.gz")}
    body = bodies[ALLOC]
    ended = next(one for one in bodies.values() if one["JobID"] == ENDED_JOB)
    events = {name: [event["Type"] for event in state["Events"]] for name, state in body["TaskStates"].items()}
    answers = {path: json.loads(text) for path, (_, text) in _exchanges().items() if text.startswith(("[", "{"))}
    return {
        "list": sorted(bodies),
        "prefix": [ALLOC],
        "read": {name: body[name] for name in ("ID", "JobID", "ClientStatus", "ModifyIndex")} | {"Events": events},
        "jobs": sorted({one["JobID"] for one in bodies.values()}),
        "job": [answers[f"/v1/job/{JOB}"][name] for name in ("ID", "Version", "Status")],
        "allocations of a job": sorted(name for name, one in bodies.items() if one["JobID"] == JOB),
        "summary": answers[f"/v1/job/{JOB}/summary"]["Summary"]["g"]["Running"],
        "search": [JOB],
        "blocking query": [True, body["ModifyIndex"]],
        "stream": sorted(bodies),
        "use of what has ended": answers[f"/v1/client/allocation/{ended['ID']}/stats"]["Tasks"],
        "logs": "hello\n",
        "evaluations": sorted(one["ID"] for one in answers[f"/v1/job/{JOB}/evaluations"]),
        "version": "1.1.2",
        "watch": 0,
        "status of a run": [ended["ID"], "dead", False],
        "start of a run": "",
        "stop of a run": None,
        "restart": True,
        "stop": [len(ALLOC), "stop"],
    }


def facts(mirror: str) -> dict[str, Any]:
    """Return what the scripts have to know."""
    bodies = _lines("bodies-before.jsonl.gz")
    index = next(body["ModifyIndex"] for body in bodies if body["ID"] == ALLOC)
    names = {"alloc": ALLOC, "other": OTHER, "task": TASK, "job": JOB, "ended": ENDED_JOB, "mirror": mirror}
    ended = next(body["ID"] for body in bodies if body["JobID"] == ENDED_JOB)
    return names | {"index": index, "count": len(bodies), "ended_alloc": ended}


# --- the servers ---


class _RecordedAgent(BaseHTTPRequestHandler):
    """The agent that a mirror follows, as far as it was recorded."""

    protocol_version = "HTTP/1.1"
    answers: Mapping[str, tuple[int, str]] = _exchanges()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        # The recorded job that has ended has no deployment.
        otherwise = (200, "[]") if path.endswith("/deployments") else (404, "not recorded")
        status, text = self.answers.get(path, otherwise)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing."""


@contextmanager
def serving() -> Iterator[tuple[str, str]]:
    """Serve the recorded cluster, to be written to, and a mirror of it beside its agent; yield both addresses."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        frames = [frame for frame in _lines("stream.ndjson.gz") if frame.get("Index", 0) <= INDEX]
        (folder / "stream.ndjson").write_text("".join(json.dumps(frame) + "\n" for frame in frames), encoding="utf-8")
        logs = [folder / "own.db", folder / "mirror.db"]
        for log in logs:
            ingest(folder / "stream.ndjson", into=log)
        agent = ThreadingHTTPServer(("127.0.0.1", 0), _RecordedAgent)
        Thread(target=agent.serve_forever, daemon=True).start()
        with Engine.open(logs[0]) as own, Engine.open(logs[1], read_only=True) as followed:
            mirror = App(followed, is_mirror=True)
            mirror.upstream = Upstream(AgentSettings(addresses=(f"http://127.0.0.1:{agent.server_port}",)))
            with running(App(own)) as server, running(mirror) as beside:
                yield server.url, beside.url
        agent.shutdown()
        agent.server_close()


# --- the clients ---


def ask(client: Client, interpreter: Sequence[str | Path]) -> list[Result]:
    """Have a client ask a server of its own, and return what came of each question."""
    right = expectations()
    with serving() as (url, mirror):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("NOMAD_", "PYTHONPATH"))
        }
        reply = subprocess.run(
            [*interpreter, json.dumps(facts(mirror))],
            env=environment | {"NOMAD_ADDR": url},
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
            check=False,
        )
    lines = [json.loads(line) for line in reply.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{client.name} told nothing: {reply.stderr[-2_000:]}")
    return [Result(line["question"], line["call"], _result(line, right[line["question"]])) for line in lines]


def _result(line: Mapping[str, Any], right: object) -> str:
    if "error" in line:
        return str(line["error"])
    if line["got"] == right:
        return WORKS
    print(f"{line['call']} got {line['got']!r}, and not {right!r}", file=sys.stderr)
    return DIFFERS


def install(client: Client, folder: Path) -> list[str | Path]:
    """Install a client in a folder, if it is not there; return the command that runs its script."""
    home = folder / client.name
    if client.index == "npm":
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "node_modules" / client.name).is_dir():
            for command in (["npm", "init", "--yes"], ["npm", "install", "--no-audit", client.package, "tsx@4"]):
                subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)
        # Its packages are those of the folder that its script lies in.
        script = shutil.copy(SCRIPTS / client.script, home / client.script)
        return [home / "node_modules" / ".bin" / "tsx", script]
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", client.package], check=True
    )
    return [python, SCRIPTS / client.script]


# --- what is written ---


def write_results(results: Mapping[str, Sequence[Result]]) -> None:
    """Write what came of each client."""
    packages = {client.name: client.package for client in CLIENTS}
    entries = [
        {"client": name, "package": packages[name], "questions": [asdict(one) for one in of]}
        for name, of in results.items()
    ]
    RESULTS.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def read_results() -> dict[str, list[Result]]:
    """Return what was written of each client."""
    entries = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {of["client"]: [Result(**one) for one in of["questions"]] for of in entries}


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Return the table of questions and clients, in Markdown."""
    of_client = {name: {one.question: one.result.partition(":")[0] for one in of} for name, of in results.items()}
    headings = [
        f"{client.name} {client.package[len(client.name) :].strip('=@')}"
        for client in CLIENTS
        if client.name in results
    ]
    rows = [["question", *headings], ["---"] * (len(headings) + 1)]
    for question in expectations():
        cells = [of.get(question, "") for of in of_client.values()]
        if any(cells):
            rows.append([question, *cells])
    return "".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|\n" for row in rows)
