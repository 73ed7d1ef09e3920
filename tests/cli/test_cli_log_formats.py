"""The records of `log` and `history` for programs: every format, filters, and listings that are sources again."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from support.command_line import refused, run
from taskfold import ingest, replay

DEMO = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"
FAST = "e368643b"


def fine(*args: object, input: bytes | None = None) -> str:
    result = run(*args, input=input)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def records(*args: object) -> list[dict[str, Any]]:
    head, *lines = fine(*args, "--format", "jsonl").splitlines()
    assert json.loads(head)["of"] == "records"
    return [json.loads(line) for line in lines]


def rows(*args: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(fine(*args, "--format", "csv"))))


@pytest.mark.parametrize("command", [("log", DEMO), ("history", DEMO, FAST), ("history", DEMO, FAST, "main")], ids=str)
def test_rows_are_the_records_in_every_format(command: tuple[object, ...], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    path.write_bytes(run(*command, "--format", "parquet").stdout_bytes)
    shown, of_csv, table = records(*command), rows(*command), parquet.read_table(path)

    assert [json.loads(row["event"]) for row in of_csv] == [record["Event"] for record in shown]
    assert [int(row["seq"]) for row in of_csv] == [record["Seq"] for record in shown]
    assert table.column("event").to_pylist() == [row["event"] for row in of_csv]
    assert table.column("time").cast("int64").to_pylist() == [record["Time"] for record in shown]
    exits = [record["Event"].get("ExitCode", 0) for record in shown if record["Event"]["Type"] == "Terminated"]
    assert [int(row["exit_code"]) for row in of_csv if row["type"] == "Terminated"] == exits


@pytest.mark.parametrize("command", [("log", DEMO), ("history", DEMO, FAST)], ids=str)
def test_types_choose_the_records_in_any_letters(command: tuple[object, ...]) -> None:
    everything = rows(*command)
    chosen = rows(*command, "--type", "restarting, Not Restarting,GAP")

    assert chosen == [row for row in everything if row["type"] in {"Restarting", "Not Restarting", "Gap"}]
    assert chosen


def test_the_tables_have_the_types_too() -> None:
    assert fine("log", DEMO, "--type", "Gap").splitlines()[-1].startswith("2 records, 1 allocation, 2 gaps")
    assert len(fine("history", DEMO, FAST, "--type", "Gap").splitlines()) == 2 + 2 + 2


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        (["--job", "sibling_failed"], {"sibling_failed"}),
        (["--status", "pending"], {"deploy_unhealthy_deadline_pending"}),
        (["--status", "running"], {"scale_down", "update_destructive"}),
    ],
)
def test_fields_of_the_allocation_choose_its_records(options: list[str], jobs: set[str]) -> None:
    ids = {row["alloc"] for row in rows("log", DEMO, *options)}
    names = {each.id: each.job_id for each in replay(DEMO).snapshots()}

    assert {names[alloc] for alloc in ids} == jobs


def test_a_node_chooses_records_by_its_beginning() -> None:
    assert rows("log", DEMO, "--node", "4e8da92d") == rows("log", DEMO)
    assert run("log", DEMO, "--node", "ffff").exit_code == 1


@pytest.mark.parametrize(
    "command",
    [("replay",), ("report",), ("log",), ("diff", "--from", "100")],
    ids=lambda command: command[0],
)
def test_a_listing_is_a_source_of_every_command(command: tuple[str, ...], tmp_path: Path) -> None:
    listing = tmp_path / "x.jsonl"
    listing.write_bytes(run("log", DEMO, "--format", "jsonl").stdout_bytes)

    original = tmp_path / "y.jsonl"
    ingest(DEMO, into=original)
    one, other = (fine(command[0], path, *command[1:]) for path in (listing, original))
    assert one.replace(str(listing), "") == other.replace(str(original), "")


def test_a_listing_is_imported_and_explained(tmp_path: Path) -> None:
    listing = tmp_path / "x.ndjson.gz"
    listing.write_bytes(gzip.compress(run("log", DEMO, "--format", "jsonl").stdout_bytes))

    assert ingest(listing, into=tmp_path / "x.db").records == len(records("log", DEMO))
    assert records("log", tmp_path / "x.db") == records("log", DEMO)
    assert fine("why", listing, "0e263ec2/good") == fine("why", DEMO, "0e263ec2/good")
    assert fine("log", "-", input=gzip.decompress(listing.read_bytes())) == fine("log", DEMO)


def test_a_listing_with_holes_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    listing = tmp_path / "x.jsonl"
    listing.write_bytes(run("history", DEMO, "0e263ec2", "--format", "jsonl").stdout_bytes)
    bodies = [fine("replay", each, "--alloc", "0e263ec2", "--format", "json") for each in (listing, DEMO)]
    assert bodies[0] == bodies[1]

    listing.write_bytes(run("log", DEMO, "--task", "good", "--format", "jsonl").stdout_bytes)
    assert {row["task"] for row in rows("log", listing)} == {"good"}


@pytest.mark.parametrize(
    "first",
    [
        b'{"taskfold":3,"dialect":"0.0.1","of":"records"}',
        b'{"taskfold":99,"dialect":"1.1.2","of":"records"}',
        b'{"taskfold":3,"dialect":5,"of":"records"}',
        b'{"taskfold":3,"dialect":"1.1.2","of":"records","more":1}',
        b'{"taskfold":3,"of":"records"',
    ],
)
def test_a_first_line_that_is_none_is_refused(first: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(first + b"\n")

    refused(run("log", tmp_path / "x.jsonl"), "x.jsonl, line 1")


def test_a_record_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    listing = tmp_path / "x.jsonl"
    listing.write_bytes(b'{"taskfold":3,"dialect":"1.1.2","of":"records"}\n{"Seq":"x"}\n')

    refused(run("replay", listing), "x.jsonl, line 2")


def test_no_log_is_opened_from_a_listing(tmp_path: Path) -> None:
    listing = tmp_path / "x.jsonl"
    listing.write_bytes(run("log", DEMO, "--format", "jsonl").stdout_bytes)
    before = listing.read_bytes()

    refused(run("import", DEMO, "--into", listing), "x.jsonl", "it has no seal")
    refused(run("verify", listing), "x.jsonl", "it has no seal")
    assert listing.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["log", DEMO, "--type", "Restartin"], "did you mean 'Restarting'?"),
        (["history", DEMO, FAST, "--type", "gapp"], "did you mean 'Gap'?"),
        (["log", DEMO, "--type", ","], "such as Restarting,Terminated"),
        (["log", "-", "--job", "x"], "name a file in place of -"),
        (["log", DEMO, DEMO, "--check"], "name one"),
        (["log", DEMO, "--check", "--type", "Gap"], "leave the other options out"),
    ],
)
def test_options_that_make_no_sense_are_refused(args: list[object], part: str) -> None:
    refused(run(*args), part)


def test_a_type_that_only_a_newer_nomad_has_is_looked_for() -> None:
    result = run("log", DEMO, "--type", "Something Quite New")

    assert (result.exit_code, result.stderr) == (1, "taskfold: nothing matched: no record\n")
    assert run("history", DEMO, FAST, "--type", "Something Quite New").exit_code == 1
