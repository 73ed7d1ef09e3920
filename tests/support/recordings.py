"""What two real Nomad agents answered, as the tests read it: see data/README.md for the formats."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"
RECORDINGS = DATA / "recordings"
VERSIONS = ("0.5.6", "1.1.2")

EDGES = "http_edges"
"""The folder that holds odd requests instead of a job's life; it has only edges.jsonl."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One recorded story of one Nomad version."""

    version: str
    name: str
    path: Path

    def __str__(self) -> str:
        """Return `version/name`, which reads well as a pytest id."""
        return f"{self.version}/{self.name}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to `GET /v1/allocation/<id>`, in the order of time; `body` is the exact text."""

    request: str
    status: int
    index: int
    headers: dict[str, str]
    body: str
    allocation: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Edge:
    """One odd request and its answer; `status` is None where the agent had not answered in time."""

    name: str
    request: str
    request_headers: dict[str, str]
    request_body: str | None
    status: int | None
    headers: list[tuple[str, str]]
    body: str | None
    current_index: int | None

    @property
    def gzipped(self) -> bool:
        """Whether the answer was sent compressed."""
        return ("Content-Encoding", "gzip") in self.headers

    @property
    def pretty(self) -> bool:
        """Whether the request asked for indented JSON."""
        return any(name.partition("=")[0] == "pretty" for name in self.request.partition("?")[2].split("&"))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of the test data, uncompressed; empty if there is no such file."""
    if not path.exists():
        return b""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    # Only "\n" ends a line: the bodies hold U+2028 and its like, at which str.splitlines would also break.
    for line in read_bytes(path).split(b"\n"):
        if line:
            yield json.loads(line)


def scenarios(version: str | None = None) -> list[Scenario]:
    """Return every scenario of a version (None: of both), in order of name, `http_edges` left out.

    >>> scenarios("0.5.6")[0].name
    'agent_restart_exits_while_down'
    """
    return [
        Scenario(each, path.name, path)
        for each in (VERSIONS if version is None else (version,))
        for path in sorted((RECORDINGS / each).iterdir())
        if path.name != EDGES
    ]


def edges_scenario(version: str) -> Scenario:
    """Return the folder of the odd requests as a scenario, for `list_bodies`."""
    return Scenario(version, EDGES, RECORDINGS / version / EDGES)


def all_answers(scenario: Scenario) -> Iterator[Answer]:
    """Yield every answer about a single allocation, 404 among them, in the order they came."""
    for line in _json_lines(scenario.path / "alloc.jsonl.gz"):
        yield Answer(
            request=line["request"],
            status=line["status"],
            index=line["index"],
            headers=line["headers"],
            body=line["body"],
            allocation=line["alloc"],
            seconds=line["t"],
        )


def bodies(scenario: Scenario) -> Iterator[Answer]:
    """Yield the answers with status 200: each body is one allocation, not indented."""
    return (answer for answer in all_answers(scenario) if answer.status == 200)


def stream_lines(scenario: Scenario) -> list[bytes]:
    """Return the lines of the event stream without their newline, heartbeats (`{}`) among them; none in 0.5.6."""
    return [line for line in read_bytes(scenario.path / "stream.ndjson.gz").split(b"\n") if line]


def final(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """Return what the agent said at the end: path of the request to `status`, `headers` and `body` (exact text)."""
    content = read_bytes(scenario.path / "final.json.gz")
    return json.loads(content) if content else {}


def job(scenario: Scenario) -> dict[str, Any]:
    """Return the job as it was submitted."""
    submitted: dict[str, Any] = json.loads(read_bytes(scenario.path / "job.json"))
    return submitted


def actions(scenario: Scenario) -> list[dict[str, Any]]:
    """Return every write that was made, with its time and its answer."""
    return list(_json_lines(scenario.path / "actions.jsonl.gz"))


def list_bodies(scenario: Scenario) -> list[str]:
    """Return the exact texts of the answers that list allocations, not indented; some are `[]`."""
    found = [
        answer["body"]
        for path, answer in final(scenario).items()
        if path.endswith("/allocations") and answer["status"] == 200
    ]
    if scenario.name == EDGES:
        found += [
            edge.body
            for edge in edges(scenario.version)
            if _asks_for_a_list(edge) and edge.status == 200 and not edge.pretty and not edge.gzipped and edge.body
        ]
    return found


def _asks_for_a_list(edge: Edge) -> bool:
    path = edge.request.removeprefix("GET ").partition("?")[0]
    return path == "/v1/allocations" or (path.startswith("/v1/job/") and path.endswith("/allocations"))


def edges(version: str) -> list[Edge]:
    """Return the odd and wrong requests that one Nomad version was sent, with its answers."""
    return [
        Edge(
            name=line["name"],
            request=line["request"],
            request_headers=line.get("request_headers", {}),
            request_body=line.get("request_body"),
            status=line.get("status"),
            headers=[(name, value) for name, value in line.get("headers", [])],
            body=line.get("body"),
            current_index=line.get("current_index"),
        )
        for line in _json_lines(RECORDINGS / version / EDGES / "edges.jsonl.gz")
    ]


def pretty_bodies(version: str) -> list[str]:
    """Return the exact texts of the indented allocations and lists of allocations."""
    return [edge.body for edge in edges(version) if edge.pretty and edge.status == 200 and edge.body]


def vector(name: str) -> dict[str, Any]:
    """Return the conformance cases of `data/vectors/<name>.json`."""
    cases: dict[str, Any] = json.loads((DATA / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    return cases


def documented_sample() -> str:
    """Return the sample answer of Nomad's documentation as printed there, which is not quite JSON."""
    return (DATA / "documented-sample.txt").read_text(encoding="utf-8")


def repaired_sample() -> str:
    """Return the documented sample as JSON: a comma put in after `"State"`, one taken out after `"Failed"`."""
    text = documented_sample()
    for printed, meant in (
        ('"State": "running" "Failed"', '"State": "running", "Failed"'),
        ('"Failed": false, }', '"Failed": false }'),
    ):
        assert text.count(printed) == 1
        text = text.replace(printed, meant)
    return text
