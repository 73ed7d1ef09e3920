"""What the results look like: JSON with every repetition, and a table made from it that hides no row."""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.harness import ROOT, Budget, Row

RESULTS: Final = ROOT / "benchmarks" / "results"
SUBJECTS: Final = (
    "apply",
    "replay",
    "columnar",
    "importing",
    "memory",
    "encode",
    "growth",
    "deciding",
    "storing",
    "copying",
    "sharing",
    "folding",
    "startup",
    "waiting",
    "pauses",
    "serving",
    "recording",
    "testing",
    "looking",
)
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
PAGE, README = Path("docs", "performance.md"), Path("README.md")
HEADLINES: Final = (
    ("an event applied, one task with a full ring", "apply", "hot", "transitions"),
    ("a log of 1,000,000 records folded, in random order", "replay", "1,000,000 records", "msgspec"),
    ("a Nomad's event stream read", "importing", "a stream of", "json.loads"),
    ("memory of a task with its 10 newest events", "memory", "a task with a full ring, 4 to", "dict"),
    ("records stored durably in SQLite, in batches", "storing", "durable append in batches", "sqlite3"),
    ("requests answered a second, bodies of 9 kB", "serving", "requests of one allocation over 16", "uvicorn"),
)  # fmt: skip
"""What README says of a row, its subject, how the row begins, and how the rival does that it is shown beside."""


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "libraries": {name: version(name) for name in ("msgspec", "sortedcontainers", "transitions")}
        | {"taskfold": tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]},
        "platform": " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver()))),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "") or (
        platform.processor()
    )


def write(subject: str, rows: list[Row], folder: Path, *, quick: bool) -> None:
    """Write the results of a subject."""
    result = {"machine": machine(), "quick": quick, "rows": [_to_json(row) for row in rows], "subject": subject}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, sort_keys=True, indent=1, ensure_ascii=False)
    (folder / f"{subject}.json").write_text(text + "\n", encoding="utf-8")


def _to_json(row: Row) -> dict[str, Any]:
    return {
        "better": row.better,
        "budgets": [
            {
                "against": budget.against,
                "limit": budget.limit,
                "measured": row.measured(budget),
                "met": _met(row, budget),
                "sense": budget.sense,
                "why": budget.why,
            }
            for budget in row.budgets
        ],
        "contestants": [{"name": name, "values": values} for name, values in row.values.items()],
        "note": row.note,
        "unit": row.unit,
        "what": row.what,
        "words": list(row.words),
    }


def _from_json(row: dict[str, Any]) -> Row:
    return Row(
        row["what"],
        row["unit"],
        {each["name"]: each["values"] for each in row["contestants"]},
        better=row["better"],
        budgets=tuple(Budget(each["sense"], each["limit"], each["against"], each["why"]) for each in row["budgets"]),
        note=row["note"],
        words=tuple(row["words"]),
    )


def _met(row: Row, budget: Budget) -> bool:
    ratio = row.measured(budget)
    return ratio >= budget.limit if budget.sense == "≥" else ratio <= budget.limit


def _number(value: float) -> str:
    """Return a number with three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _budget(row: Row, budget: Budget) -> str:
    unit = f"× {budget.against.partition(', ')[2] or budget.against}" if budget.against else row.unit
    measured = f" ({_number(row.measured(budget))} ×)" if budget.against else ""
    if _met(row, budget):
        return f"{budget.sense} {budget.limit:g} {unit}: met{measured}"
    return f"{budget.sense} {budget.limit:g} {unit}: **missed**{measured}{budget.why and f': {budget.why}'}"


def _ratio(row: Row, rival: str) -> str:
    times = row.times(rival)
    wins = (times >= 1) == (row.better == "higher")
    return f"{_number(max(times, 1 / times))} × {row.words[0 if wins else 1]}"


def lines(row: Row) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield, for each contestant: its name, median, minimum and maximum, what the first is beside it, the budgets."""
    for name, values in row.values.items():
        spread = f"{_number(min(values))} – {_number(max(values))}" if len(values) > 1 else "once"
        is_ours = name == row.ours
        budgets = "; ".join(_budget(row, budget) for budget in row.budgets) if is_ours else ""
        yield name, f"{_number(median(values))} {row.unit}", spread, "" if is_ours else _ratio(row, name), budgets


def show(row: Row) -> None:
    """Print one row, as it is measured."""
    print(f"\n{row.what}" + (f" ({row.note})" if row.note else ""))
    for name, middle, spread, ratio, budgets in lines(row):
        beside = f"the first is {ratio}" if ratio else budgets.replace("**", "")
        print(f"  {name:<58} {middle:>14}  {spread:<19} {beside}".rstrip(), flush=True)


def table(folder: Path = RESULTS) -> str:
    """Return the markdown table of all results in a folder."""
    results = _results(folder)
    out = []
    for sentence in sorted({_line(result) for result in results}):
        names = [result["subject"] for result in results if _line(result) == sentence]
        out.append(sentence + ("" if len(names) == len(results) else f" ({', '.join(names)})") + "\n")
    out.append("| | median | min – max | the first is | budget |\n|---|---|---|---|---|")
    for result in results:
        for row in map(_from_json, result["rows"]):
            note = f" ({row.note})" if row.note else ""
            out.append(f"| **{result['subject']}: {row.what}**{note} | | | | |")
            out.extend(f"| {' | '.join(line)} |" for line in lines(row))
    return "\n".join(out) + "\n"


def headlines(folder: Path = RESULTS) -> str:
    """Return the few rows that README shows, as a markdown table."""
    rows = {
        (result["subject"], row.what): row for result in _results(folder) for row in map(_from_json, result["rows"])
    }
    out = ["| | taskfold | beside it |\n|---|---|---|"]
    for text, subject, what, rival in HEADLINES:
        row = next((row for (of, name), row in rows.items() if of == subject and name.startswith(what)), None)
        if row is not None:
            ours, *others = lines(row)
            beside = next((line for line in others if line[0].startswith(rival)), None) if rival else None
            out.append(f"| {text} | {ours[1]} | {f'{beside[0]}: {beside[1]}' if beside else ''} |")
    return "\n".join(out) + "\n"


def _results(folder: Path) -> list[dict[str, Any]]:
    paths = (folder / f"{name}.json" for name in SUBJECTS)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def _line(result: dict[str, Any]) -> str:
    of = result["machine"]
    libraries = ", ".join(f"{name} {number}" for name, number in of["libraries"].items())
    quick = " Small sizes, for a smoke test: the numbers mean nothing." if result["quick"] else ""
    return f"{of['python']} on {of['cpu']}, {of['cpus']} CPUs, {of['platform']}; {libraries}.{quick}"


def write_pages(root: Path, folder: Path) -> None:
    """Put the results between the markers of the pages that show them: all in PAGE, a few in README."""
    for name, text in ((PAGE, table(folder)), (README, headlines(folder))):
        page = root / name
        contents = page.read_text(encoding="utf-8")
        if contents.count(BEGIN) != 1 or contents.count(END) != 1:
            sys.exit(f"{page} must have {BEGIN} and {END} once")
        before, after = contents.partition(BEGIN)[0], contents.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
