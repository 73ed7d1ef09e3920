"""What the real command line prints of an agent, it prints of a mirror of that agent, too: to the letter.

The real command cannot be run here. `support/nomad_command.py` renders answers as it does: that is proved first, from
the answers that it was given, by what it printed of them; then the mirror is asked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.asgi import ask
from support.nomad_command import AskAgent, Printed, run_command
from support.recordings import read_bytes
from taskfold import Engine, ingest
from taskfold.http import App
from taskfold.http.answers import Answer
from taskfold.http.request import Request

CLIENTS = Path(__file__).parents[2] / "data" / "clients" / "1.1.2"
COMMANDS = [json.loads(line) for line in read_bytes(CLIENTS / "commands.jsonl.gz").split(b"\n") if line]
STREAM, BODIES = "stream.ndjson", "bodies-before.jsonl"
INDEX = 56
"""The index of the agent when the commands that only read were run."""

NS = 10**9
MOST_SECONDS = 60
"""The recording of the commands that only read took less."""

RENDERED = [
    command
    for command in COMMANDS
    if command["kind"] == "read"
    and command["args"][:1] in (["status"], ["job"], ["alloc"])
    and not {"-json", "-t", "logs", "inspect", "deployments"} & set(command["args"])
    and command["requests"]
]
OF_A_MIRROR = [command for command in RENDERED if command["args"][:2] != ["job", "history"]]
"""A mirror has the versions of a job that its allocations have, and whether one was stable as they were told it."""

OF_THE_AGENT = r"/(evaluations|deployment|stats)$|^/v1/evaluation/"
"""What a mirror asks its agent for: of this it knows too little."""

OF_A_MIRROR_ALONE = [
    command
    for command in OF_A_MIRROR
    if all(
        '"Tasks":{}' in of["answer"] or not re.search(OF_THE_AGENT, of["path"].partition("?")[0])
        for of in command["requests"]
    )
]


def title(command: dict[str, Any]) -> str:
    return " ".join(command["args"])


def expected(command: dict[str, Any]) -> Printed:
    """Return what the real command printed. The name of its node, of two letters, was replaced afterwards."""
    stdout = command["stdout"].replace("node-1" + " " * 9, "node-1" + " " * 5)
    return Printed(stdout, command["stderr"], command["rc"])


def printed(agent: AskAgent, command: dict[str, Any]) -> Printed:
    """Return what a command prints of the answers, at the second at which it was run, if it is the same at any."""
    newest = max(json.loads(line)["ModifyTime"] for line in read_bytes(CLIENTS / f"{BODIES}.gz").split(b"\n") if line)
    times = [newest + second * NS for second in range(MOST_SECONDS)]
    outputs = [run_command(agent, command["args"], times[0])]
    if " ago" in command["stdout"]:
        answers: dict[tuple[str, str, str], tuple[int, str]] = {}

        def again(method: str, path: str, body: str) -> tuple[int, str]:
            key = method, path, body
            if key not in answers:
                answers[key] = agent(*key)
            return answers[key]

        outputs += [run_command(again, command["args"], time_ns) for time_ns in times[1:]]
    return next((output for output in outputs if output == expected(command)), outputs[0])


def recorded_answer(command: dict[str, Any], method: str, path: str) -> tuple[int, str]:
    return next(
        (of["status"], of["answer"]) for of in command["requests"] if (of["method"], of["path"]) == (method, path)
    )


@pytest.mark.parametrize("command", RENDERED, ids=title)
def test_of_the_recorded_answers_is_rendered_what_the_real_command_printed(command: dict[str, Any]):
    questions: list[tuple[str, str, str]] = []

    def agent(method: str, path: str, body: str) -> tuple[int, str]:
        questions.append((method, path, body))
        return recorded_answer(command, method, path)

    assert printed(agent, command) == expected(command)
    recorded = [(of["method"], of["path"], of["body"] or "") for of in command["requests"]]
    assert questions[: len(recorded)] == recorded


class RecordedAgent:
    """The agent that a mirror follows, as it was recorded for one command; it notes what it is asked."""

    passes_writes = False

    def __init__(self, command: dict[str, Any]) -> None:
        self.command = command
        self.questions: list[str] = []

    def passes(self, request: Request) -> bool:
        return request.method in {"GET", "PUT"}

    async def forward(self, _context: object, request: Request, _region: str) -> Answer:
        query = request.scope["query_string"].decode()
        path = f"{request.path}?{query}" if query else request.path
        self.questions.append(request.path)
        status, text = recorded_answer(self.command, request.method, path)
        return Answer(status, (), text.encode())


@pytest.fixture(scope="module", params=[(STREAM,), (BODIES,), (STREAM, BODIES)], ids="+".join)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Return the agent's allocations before the commands, as its stream, its bodies, or both tell of them."""
    folder = tmp_path_factory.mktemp("mirror")
    sources = []
    for name in request.param:
        lines = [line for line in read_bytes(CLIENTS / f"{name}.gz").split(b"\n") if line]
        if name == STREAM:
            lines = [line for line in lines if json.loads(line).get("Index", 0) <= INDEX]
        sources.append(folder / name)
        sources[-1].write_bytes(b"\n".join(lines) + b"\n")
    ingest(*sources, into=folder / "log.db")
    return Engine.open(folder / "log.db", read_only=True)


def mirror_of(app: App) -> AskAgent:
    def asked(method: str, path: str, body: str) -> tuple[int, str]:
        reply = ask(app, f"{method} {path}", body=body.encode())
        return reply.status, reply.text

    return asked


@pytest.mark.parametrize("command", OF_A_MIRROR, ids=title)
def test_of_a_mirror_the_command_prints_what_it_prints_of_the_agent(command: dict[str, Any], engine: Engine):
    app = App(engine, is_mirror=True)
    agent = RecordedAgent(command)
    app.upstream = agent  # type: ignore[assignment]  # it does what is used of it

    assert printed(mirror_of(app), command) == expected(command)
    assert all(re.search(OF_THE_AGENT, path) for path in agent.questions), "the rest is known here"


@pytest.mark.parametrize("command", OF_A_MIRROR_ALONE, ids=title)
def test_a_mirror_whose_agent_is_away_makes_the_output_that_follows_from_allocations(
    command: dict[str, Any], engine: Engine
):
    assert printed(mirror_of(App(engine, is_mirror=True)), command) == expected(command)


def test_the_status_of_a_job_is_todays_and_not_that_of_its_placement(engine: Engine):
    told = {job["ID"]: job["Status"] for job in json.loads(ask(App(engine), "GET /v1/jobs").body)}
    assert told == {"bad": "dead", "ok": "dead", "svc": "running"}
    assert {name: json.loads(ask(App(engine), f"GET /v1/job/{name}").body)["Status"] for name in told} == told


def general(command: dict[str, Any]) -> str:
    """Return a command without the names of the recording."""
    words = [
        "<alloc>" if re.fullmatch(r"[0-9a-z-]{2,36}", word) and word[0] in "0269z" else word for word in command["args"]
    ]
    return " ".join("<job>" if word in {"svc", "bad", "ok", "nope"} else word for word in words)


def table_of_commands() -> str:
    """Return the table of docs/serving.md: what is the same of a mirror alone, and with its agent."""
    rows = ["| command | a mirror alone | with its agent |", "|---|---|---|"]
    for name in dict.fromkeys(map(general, RENDERED)):
        commands = [command for command in RENDERED if general(command) == name]
        if not all(command in OF_A_MIRROR for command in commands):
            alone = beside = "the versions that allocations have"
        elif all(command in OF_A_MIRROR_ALONE for command in commands):
            alone = beside = "yes"
        else:
            asked = [of["path"] for command in commands for of in command["requests"]]
            needs_more = any("/evaluations" in path for path in asked)
            alone = "no: evaluations are not known" if needs_more else "all but what tasks use"
            beside = "yes"
        rows.append(f"| `nomad {name}` | {alone} | {beside} |")
    return "".join(f"{row}\n" for row in rows)


def test_the_table_of_commands_is_what_is_tested():
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert f"<!-- command line -->\n{table_of_commands()}<!-- /command line -->\n" in page
