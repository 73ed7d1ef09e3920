"""What Nomad's own command line asks of an agent, and prints of the answers: the commands `status`, `job` and `alloc`.

It is no copy of the command, but a rendering of the answers by which a test tells whether another server's answers make
the same output. `tests/http/nomad/test_command_output.py` first proves it: from the recorded answers of an agent of
1.1.2 it makes what the real command printed, to the letter, with the very same requests. Only what was recorded is
rendered: anything else raises NotImplementedError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from taskfold.model.go.durations import duration_text

__all__ = ["AskAgent", "Printed", "run_command"]

AskAgent: TypeAlias = Callable[[str, str, str], tuple[int, str]]
"""Asks an agent (method, path with query, body), and returns the status and the text of its answer."""

Row: TypeAlias = Sequence[object]

_SECOND: Final = 10**9
_SHORT_ID: Final = 8
_NONE: Final = "<none>"


@dataclass
class Printed:
    """What a command printed."""

    stdout: str
    stderr: str = ""
    code: int = 0


class _Failure(Exception):
    """The command ends with an error."""


def run_command(ask: AskAgent, arguments: Sequence[str], now_ns: int) -> Printed:
    """Return what the command prints at a moment. Raises NotImplementedError for a command that is not rendered."""
    options = {argument for argument in arguments if argument.startswith("-")}
    words = [argument for argument in arguments if argument not in options]
    command = _Command(ask, now_ns, options)
    try:
        match words:
            case ["status"] | ["job", "status"]:
                command.job_list()
            case ["status", name]:
                command.status(name)
            case ["job", "status", job]:
                command.job_status(job)
            case ["job", "history", job]:
                command.job_history(job)
            case ["alloc", "status", alloc]:
                command.alloc_status(alloc)
            case _:
                raise NotImplementedError(arguments)
    except _Failure as failure:
        return Printed("".join(line + "\n" for line in command.lines), f"{failure}\n", 1)
    return Printed("".join(line + "\n" for line in command.lines))


# --- columns ---


def _columns(rows: Sequence[Row], *, between: str = "  ", empty: str = _NONE) -> list[str]:
    """Return rows as lines whose columns begin at the same place; the last one is not filled."""
    texts = [[str(cell).strip() or empty for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        between.join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in texts
    ]


def _pairs(rows: Sequence[Row]) -> list[str]:
    """Return names and values as lines."""
    return _columns(rows, between=" = ")


# --- values ---


def _time(time_ns: int) -> str:
    """Return a moment as RFC 3339 has it, in UTC."""
    return datetime.fromtimestamp(time_ns // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text_time(text: str | None) -> str:
    """Return a moment of a task; none, or Go's zero, is not there."""
    if not text or text.startswith("0001-"):
        return "N/A"
    return text.partition(".")[0].removesuffix("Z") + "Z"


def _age(time_ns: int, now_ns: int) -> str:
    """Return how long ago a moment is, in its two largest units; both are rounded to seconds before."""
    seconds = (now_ns + _SECOND // 2) // _SECOND - (time_ns + _SECOND // 2) // _SECOND
    parts = []
    for name, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{name}")
    return f"{''.join(parts[:2]) or '0s'} ago"


def _size(count: int) -> str:
    """Return a number of bytes in the unit of which there is at least one, with two digits."""
    unit, value = 0, float(count)
    while value >= 1_024 and unit < len(_UNITS) - 1:
        value /= 1_024
        unit += 1
    if count < 10:
        return f"{count} B"
    value = int(value * 10 + 0.5) / 10
    return f"{value:.0f} {_UNITS[unit]}" if value >= 10 else f"{value:.1f} {_UNITS[unit]}"


_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MEBIBYTE: Final = 2**20


@dataclass
class _Command:
    """One run of the command."""

    ask: AskAgent
    now_ns: int
    options: set[str]
    lines: list[str] = field(default_factory=list)
    """The lines that were printed."""

    @property
    def is_verbose(self) -> bool:
        return "-verbose" in self.options

    @property
    def is_short(self) -> bool:
        return "-short" in self.options

    def _get(self, path: str) -> Any:
        """Return an answer as JSON."""
        return self._read("GET", path, "")

    def _read(self, method: str, path: str, body: str) -> Any:
        status, text = self.ask(method, path, body)
        if status != 200:
            raise _Refusal(f"Unexpected response code: {status} ({text})")
        return json.loads(text)

    def _print(self, *lines: str) -> None:
        self.lines += lines

    def _id(self, text: str) -> str:
        return text if self.is_verbose else text[:_SHORT_ID]

    def _when(self, time_ns: int) -> str:
        return _time(time_ns) if self.is_verbose else _age(time_ns, self.now_ns)

    def status(self, name: str) -> None:
        """Print what a search finds: a job, or an allocation."""
        question = {"Prefix": name, "Context": "all", "Region": "", "Namespace": "", "AllowStale": False}
        question |= {"WaitIndex": 0, "WaitTime": 0, "Params": None, "AuthToken": "", "PerPage": 0, "NextToken": ""}
        answer = self._read("PUT", "/v1/search", json.dumps(question, separators=(",", ":")) + "\n")
        kinds = {kind: names for kind, names in answer["Matches"].items() if names}
        match kinds:
            case {"jobs": [_], **rest} if not rest:
                self.job_status(name)
            case {"allocs": [_], **rest} if not rest:
                self.alloc_status(name)
            case _:
                raise NotImplementedError(kinds)

    # --- jobs ---

    def job_list(self) -> None:
        """Print the jobs."""
        rows: list[Row] = [("ID", "Type", "Priority", "Status", "Submit Date")]
        for job in self._get("/v1/jobs"):
            assert not any(job[name] for name in ("Periodic", "ParameterizedJob", "Stop")), "these were not recorded"
            rows.append((job["ID"], job["Type"], job["Priority"], job["Status"], _time(job["SubmitTime"])))
        self._print(*_columns(rows))

    def _one_job(self, name: str) -> tuple[str, str]:
        """Return the ID and the namespace of the job that a prefix names."""
        jobs = self._get(f"/v1/jobs?prefix={name}")
        if not jobs:
            raise _Failure(f'No job(s) with prefix or id "{name}" found')
        if len(jobs) > 1 and jobs[0]["ID"] != name:
            raise NotImplementedError(jobs)
        return jobs[0]["ID"], jobs[0]["JobSummary"]["Namespace"]

    def job_status(self, name: str) -> None:
        """Print a job, and its allocations."""
        job, namespace = self._one_job(name)
        told = self._get(f"/v1/job/{job}?namespace={namespace}")
        assert not told["Stop"], "this was not recorded"
        self._print(
            *_pairs(
                [
                    ("ID", told["ID"]),
                    ("Name", told["Name"]),
                    ("Submit Date", _time(told["SubmitTime"])),
                    ("Type", told["Type"]),
                    ("Priority", told["Priority"]),
                    ("Datacenters", ",".join(told["Datacenters"])),
                    ("Namespace", told["Namespace"]),
                    ("Status", told["Status"]),
                    ("Periodic", str(told["Periodic"] is not None).lower()),
                    ("Parameterized", str(told["ParameterizedJob"] is not None).lower()),
                ]
            )
        )
        if not self.is_short:
            self._job_details(job, namespace)

    def _job_details(self, job: str, namespace: str) -> None:
        """Print what a job has: the command reads all of it before it prints more."""
        every = str("-all-allocs" in self.options).lower()
        stubs = self._get(f"/v1/job/{job}/allocations?all={every}&namespace={namespace}")
        evaluations = self._get(f"/v1/job/{job}/evaluations?namespace={namespace}")
        deployment = self._get(f"/v1/job/{job}/deployment?namespace={namespace}")
        self._print_summary(self._get(f"/v1/job/{job}/summary?namespace={namespace}"))
        if self.is_verbose:
            self._print_evaluations(evaluations)
        if deployment:
            self._print_deployment(deployment)
        self._print("", "Allocations", *self._stub_lines(stubs))

    def _print_summary(self, summary: Mapping[str, Any]) -> None:
        counts = ("Queued", "Starting", "Running", "Failed", "Complete", "Lost")
        groups = sorted(summary["Summary"].items())
        rows: list[Row] = [("Task Group", *counts), *((name, *(of[count] for count in counts)) for name, of in groups)]
        self._print("", "Summary", *_columns(rows))

    def _print_evaluations(self, evaluations: Sequence[Mapping[str, Any]]) -> None:
        rows: list[Row] = [("ID", "Priority", "Triggered By", "Status", "Placement Failures")]
        for of in sorted(evaluations, key=lambda evaluation: -evaluation["CreateIndex"]):
            failures = str(bool(of.get("FailedTGAllocs"))).lower()
            rows.append((self._id(of["ID"]), of["Priority"], of["TriggeredBy"], of["Status"], failures))
        self._print("", "Evaluations", *_columns(rows))

    def _print_deployment(self, deployment: Mapping[str, Any]) -> None:
        rows: list[Row] = [
            ("ID", self._id(deployment["ID"])),
            ("Status", deployment["Status"]),
            ("Description", deployment["StatusDescription"]),
        ]
        groups: list[Row] = [("Task Group", "Desired", "Placed", "Healthy", "Unhealthy", "Progress Deadline")]
        for name, of in sorted(deployment["TaskGroups"].items()):
            numbers = (of[count] for count in ("DesiredTotal", "PlacedAllocs", "HealthyAllocs", "UnhealthyAllocs"))
            groups.append((name, *numbers, _text_time(of["RequireProgressBy"])))
        self._print("", "Latest Deployment", *_pairs(rows), "", "Deployed", *_columns(groups))

    def _stub_lines(self, stubs: Sequence[Mapping[str, Any]]) -> list[str]:
        if not stubs:
            return ["No allocations placed"]
        extra = ("Node Name",) if self.is_verbose else ()
        evaluation = ("Eval ID",) if self.is_verbose else ()
        heading = ("Task Group", "Version", "Desired", "Status", "Created", "Modified")
        rows: list[Row] = [("ID", *evaluation, "Node ID", *extra, *heading)]
        for of in sorted(stubs, key=lambda stub: -stub["CreateIndex"]):
            ids = [self._id(of[name]) for name in ("ID", *(["EvalID"] if self.is_verbose else []), "NodeID")]
            node = [of["NodeName"]] if self.is_verbose else []
            states = [of[name] for name in ("TaskGroup", "JobVersion", "DesiredStatus", "ClientStatus")]
            rows.append((*ids, *node, *states, self._when(of["CreateTime"]), self._when(of["ModifyTime"])))
        return _columns(rows)

    def job_history(self, name: str) -> None:
        """Print the versions of a job."""
        job, namespace = self._one_job(name)
        versions = self._get(f"/v1/job/{job}/versions?diffs=false&namespace={namespace}")["Versions"]
        for number, of in enumerate(versions):
            rows = [("Version", of["Version"]), ("Stable", str(of["Stable"]).lower())]
            rows.append(("Submit Date", _time(of["SubmitTime"])))
            self._print(*([""] if number else []), *_pairs(rows))

    # --- allocations ---

    def alloc_status(self, prefix: str) -> None:
        """Print an allocation, and its tasks."""
        try:
            stubs = self._get(f"/v1/allocations?prefix={prefix}")
        except _Refusal as refusal:
            raise _Failure(f"Error querying allocation: {refusal}") from None
        if not stubs:
            raise _Failure(f'No allocation(s) with prefix or id "{prefix}" found')
        if len(stubs) > 1:
            raise NotImplementedError(stubs)
        alloc = self._get(f"/v1/allocation/{stubs[0]['ID']}?namespace={stubs[0]['Namespace']}")
        if self.is_short:
            self._print_short(alloc)
            return
        self._print(*self._basics(alloc))
        usage = self._get(f"/v1/client/allocation/{alloc['ID']}/stats")["Tasks"]
        for task, state in sorted(alloc["TaskStates"].items()):
            self._print_task(alloc, task, state, (usage or {}).get(task))
        if self.is_verbose:
            self._print_placement(alloc["Metrics"])

    def _print_short(self, alloc: Mapping[str, Any]) -> None:
        rows = [("ID", alloc["ID"]), ("Name", alloc["Name"])]
        rows += [("Created", self._when(alloc["CreateTime"])), ("Modified", self._when(alloc["ModifyTime"]))]
        tasks: list[Row] = [("Name", "State", "Last Event", "Time", "Lifecycle")]
        for name, state in sorted(alloc["TaskStates"].items()):
            assert alloc["AllocatedResources"]["TaskLifecycles"][name] is None, "a hook was not recorded"
            last = state["Events"][-1]
            tasks.append((name, state["State"], last["Type"], _time(last["Time"]), "main"))
        self._print(*_pairs(rows), "", "Tasks", *_columns(tasks))

    def _basics(self, alloc: Mapping[str, Any]) -> list[str]:
        rows: list[Row] = [
            ("ID", alloc["ID"]),
            ("Eval ID", self._id(alloc["EvalID"])),
            ("Name", alloc["Name"]),
            ("Node ID", self._id(alloc["NodeID"])),
            ("Node Name", alloc["NodeName"]),
            ("Job ID", alloc["JobID"]),
            ("Job Version", alloc["Job"]["Version"]),
            ("Client Status", alloc["ClientStatus"]),
            ("Client Description", alloc["ClientDescription"]),
            ("Desired Status", alloc["DesiredStatus"]),
            ("Desired Description", alloc.get("DesiredDescription", "")),
            ("Created", self._when(alloc["CreateTime"])),
            ("Modified", self._when(alloc["ModifyTime"])),
        ]
        if alloc.get("DeploymentID"):
            health = (alloc.get("DeploymentStatus") or {}).get("Healthy")
            word = "unset" if health is None else "healthy" if health else "unhealthy"
            rows += [("Deployment ID", self._id(alloc["DeploymentID"])), ("Deployment Health", word)]
        if alloc.get("NextAllocation"):
            rows.append(("Replacement Alloc ID", self._id(alloc["NextAllocation"])))
        if alloc.get("FollowupEvalID"):
            self._check_follow_up(alloc["FollowupEvalID"])
        if self.is_verbose:
            metrics = alloc["Metrics"]
            rows += [
                ("Evaluated Nodes", metrics["NodesEvaluated"]),
                ("Filtered Nodes", metrics["NodesFiltered"]),
                ("Exhausted Nodes", metrics["NodesExhausted"]),
                ("Allocation Time", duration_text(metrics["AllocationTime"])),
                ("Failures", metrics["CoalescedFailures"]),
            ]
        return _pairs(rows)

    def _check_follow_up(self, evaluation: str) -> None:
        """Read the evaluation that may place the next allocation: one that is to come would be printed."""
        try:
            of = self._get(f"/v1/evaluation/{evaluation}")
        except _Refusal:
            return
        if _text_time(of.get("WaitUntil")) > _time(self.now_ns) and of.get("WaitUntil"):
            raise NotImplementedError("an evaluation that is to come")

    def _print_task(
        self, alloc: Mapping[str, Any], task: str, state: Mapping[str, Any], usage: Mapping[str, Any] | None
    ) -> None:
        resources = alloc["TaskResources"][task]
        disk = _size(alloc["Resources"]["DiskMB"] * _MEBIBYTE)
        cpu, memory = str(resources["CPU"]), _size(resources["MemoryMB"] * _MEBIBYTE)
        used = (usage or {}).get("ResourceUsage") or {}
        if used.get("CpuStats"):
            cpu = f"{int(used['CpuStats']['TotalTicks'])}/{cpu}"
        if used.get("MemoryStats"):
            memory = f"{_size(used['MemoryStats']['RSS'])}/{memory}"
        assert not resources["Networks"], "addresses were not recorded"
        rows: list[Row] = [("CPU", "Memory", "Disk", "Addresses"), (f"{cpu} MHz", memory, disk, "")]
        self._print("", f'Task "{task}" is "{state["State"]}"', "Task Resources", *_columns(rows, empty=""))
        if "-stats" in self.options:
            self._print_usage(used)
        times = [("Started At", _text_time(state["StartedAt"])), ("Finished At", _text_time(state["FinishedAt"]))]
        counts = [("Total Restarts", state["Restarts"]), ("Last Restart", _text_time(state["LastRestart"]))]
        events: list[Row] = [("Time", "Type", "Description")]
        events += [(_time(of["Time"]), of["Type"], of["DisplayMessage"]) for of in reversed(state["Events"])]
        self._print("", "Task Events:", *_pairs([*times, *counts]), "", "Recent Events:", *_columns(events))

    def _print_usage(self, used: Mapping[str, Any]) -> None:
        """Print what a task uses, as far as it is measured."""
        memory, cpu = used.get("MemoryStats"), used.get("CpuStats")
        if memory:
            names = sorted(memory["Measured"])
            values = [_size(memory[name]) for name in names]
            self._print("", "Memory Stats", *_columns([names, values]), "")
        if cpu:
            names = sorted(cpu["Measured"])
            values = [f"{cpu[name.replace(' ', '')]:.2f}%" for name in names]
            self._print("CPU Stats", *_columns([names, values]))

    def _print_placement(self, metrics: Mapping[str, Any]) -> None:
        """Print how the nodes were scored."""
        scores = sorted({name for node in metrics["ScoreMetaData"] for name in node["Scores"]})
        rows: list[Row] = [("Node", *scores, "final score")]
        for node in metrics["ScoreMetaData"]:
            numbers = [*(node["Scores"][name] for name in scores), node["NormScore"]]
            rows += [(node["NodeID"], *(f"{number:.3g}" for number in numbers))]
        self._print("", "Placement Metrics", *_columns(rows))


class _Refusal(Exception):
    """The agent refused a request."""
