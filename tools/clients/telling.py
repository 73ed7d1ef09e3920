"""How a script of a client tells what it got: a line of JSON for each question.

It is imported by scripts that run in an environment of their client, without taskfold.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

URL = os.environ["NOMAD_ADDR"]
HOST, PORT = urlsplit(URL).hostname, urlsplit(URL).port
FACTS = json.loads(sys.argv[1])
ALLOC, OTHER, TASK, JOB, INDEX, COUNT, ENDED = (
    FACTS[name] for name in ("alloc", "other", "task", "job", "index", "count", "ended_alloc")
)


def tell(question: str, call: str, function: Callable[[], object]) -> None:
    """Ask by a call of the client, and tell what came of it."""
    try:
        line = {"got": function()}
    except BaseException as problem:  # noqa: BLE001 - a command of the client may exit
        line = {"error": _error(problem)}
    print(json.dumps({"question": question, "call": call} | line), flush=True)


def _error(problem: BaseException) -> str:
    """Return the status of an answer, if the client tells it, and what its exception is called."""
    answers = (problem, *(getattr(problem, name, None) for name in ("response", "nomad_resp")))
    status = next((code for answer in answers if (code := getattr(answer, "status_code", None))), None)
    if status is None and (text := re.search(r"\b[45]\d\d\b", str(problem))):
        status = text[0]
    return type(problem).__name__ if status is None else f"{status}: {type(problem).__name__}"


def ids(entries: Iterable[dict]) -> list[str]:
    """Return the IDs of a list, sorted."""
    return sorted(entry["ID"] for entry in entries)


def comparable(alloc: dict) -> dict:
    """Return what is compared of an allocation."""
    events = {name: [event["Type"] for event in state["Events"]] for name, state in alloc["TaskStates"].items()}
    return {name: alloc[name] for name in ("ID", "JobID", "ClientStatus", "ModifyIndex")} | {"Events": events}


def last_events(alloc: dict) -> list[str]:
    """Return the types of the newest events of a task, with which an action is compared."""
    return [event["Type"] for event in alloc["TaskStates"][TASK]["Events"]]
