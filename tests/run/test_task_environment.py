"""A task has the directories and the variables that its Nomad gives it, and its settings may refer to them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest

from support.command_line import refused
from support.command_line import run as called
from support.recordings import scenarios
from support.supervising import events_of, job_of, output, run, script
from taskfold import Engine, events
from taskfold.cli._jobs import read_jobs
from taskfold.log.memory import MemoryLog
from taskfold.model.dialect import DIALECTS, dialect_of
from taskfold.nomad.views.decode import view
from taskfold.nomad.views.job import Job
from taskfold.run.environment import Environment, Placement, environment_of
from taskfold.run.raw_exec import notes_of, problem_of
from taskfold.run.task_directory import TaskDirectory

OLD = ("0.5.0", "0.5.6")
ALLOC = "203266e5-ab13-3a5d-4ca1-9a6ac0c1a0b2"
PORTS = {"ReservedPorts": [{"Label": "http", "Value": 80}], "DynamicPorts": [{"Label": "rpc-x"}]}
SIBLING = {"Name": "db", "Resources": {"Networks": [{"ReservedPorts": [{"Label": "sql", "Value": 5432}]}]}}
GROUP_PORTS = {"ReservedPorts": [{"Label": "admin", "Value": 81, "To": 8081}]}


def full_job(**more: object) -> dict[str, object]:
    """Return a job of a task that says all that its environment may depend on."""
    task = script(
        "web",
        "true",
        Meta={"owner": "me", "from": "task"},
        Resources={"CPU": 500, "MemoryMB": 256, "MemoryMaxMB": 512, "Networks": [PORTS]},
        **more,
    )
    job = job_of(task, SIBLING)
    job["TaskGroups"][0] |= {"Meta": {"from": "group", "of-group": "1"}, "Networks": [GROUP_PORTS]}
    return {**job, "ParentID": "above", "Datacenters": ["dc7", "dc8"], "Meta": {"from": "job"}, "Namespace": "ns"}


def placement_of(job: dict[str, object], dialect: str) -> Placement:
    told = view(msgspec.json.encode(job), Job, path="$")
    (group,) = told.task_groups
    return Placement(dialect_of(dialect), "eu", told, group, "example.group[3]")


def environment(job: dict[str, object], dialect: str, root: Path = Path("/run")) -> Environment:
    placed = placement_of(job, dialect)
    return environment_of(placed, placed.group.tasks[0], TaskDirectory(root, ALLOC, "web"))


def nomads(variables: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("NOMAD_"): value for name, value in variables.items() if name.startswith("NOMAD_")}


# --- variables ---

ALWAYS = {
    "ALLOC_DIR": f"/run/{ALLOC}/alloc",
    "TASK_DIR": f"/run/{ALLOC}/web/local",
    "SECRETS_DIR": f"/run/{ALLOC}/web/secrets",
    "CPU_LIMIT": "500",
    "MEMORY_LIMIT": "256",
    "ALLOC_ID": ALLOC,
    "ALLOC_NAME": "example.group[3]",
    "ALLOC_INDEX": "3",
    "TASK_NAME": "web",
    "JOB_NAME": "example",
    "META_OWNER": "me",
    "META_FROM": "task",
    "PORT_http": "80",
    "HOST_PORT_http": "80",
}
SINCE_0_5_5 = {
    "META_owner": "me",
    "META_from": "task",
    "META_OF_GROUP": "1",
    "META_of_group": "1",
    "PORT_db_sql": "5432",
}
VARIABLES = {
    "0.5.0": ALWAYS | {"META_OF-GROUP": "1"},
    "0.5.6": ALWAYS | SINCE_0_5_5,
    "1.1.2": ALWAYS
    | SINCE_0_5_5
    | {
        "MEMORY_MAX_LIMIT": "512",
        "GROUP_NAME": "group",
        "JOB_ID": "example",
        "JOB_PARENT_ID": "above",
        "NAMESPACE": "ns",
        "DC": "dc7",
        "REGION": "eu",
        "PORT_admin": "8081",
        "ALLOC_PORT_admin": "8081",
        "HOST_PORT_admin": "81",
    },
}


@pytest.fixture(autouse=True)
def _nothing_of_nomads_is_inherited(monkeypatch):
    for name in [name for name in os.environ if name.startswith("NOMAD_")]:
        monkeypatch.delenv(name)


def test_every_dialect_has_its_variables():
    assert VARIABLES.keys() == DIALECTS.keys()


@pytest.mark.parametrize("dialect", VARIABLES)
def test_a_task_has_the_variables_of_its_nomad_and_no_others(dialect):
    assert nomads(environment(full_job(), dialect).variables) == VARIABLES[dialect]


@pytest.mark.parametrize("dialect", VARIABLES)
def test_what_the_job_does_not_say_is_no_variable(dialect):
    told = nomads(environment(job_of(script("web", "true")), dialect).variables)

    assert not told.keys() & {"CPU_LIMIT", "MEMORY_LIMIT", "MEMORY_MAX_LIMIT", "JOB_PARENT_ID"}
    assert (told.get("DC"), told.get("NAMESPACE")) == (("dc1", "default") if dialect == "1.1.2" else (None, None))


@pytest.mark.parametrize("dialect", VARIABLES)
def test_a_variable_of_the_task_goes_before_nomads_and_that_before_what_is_inherited(dialect, monkeypatch):
    monkeypatch.setenv("NOMAD_TASK_NAME", "inherited")
    monkeypatch.setenv("NOMAD_JOB_NAME", "inherited")

    told = environment(full_job(Env={"NOMAD_JOB_NAME": "own"}), dialect).variables

    assert (told["NOMAD_TASK_NAME"], told["NOMAD_JOB_NAME"]) == ("web", "own")


@pytest.mark.parametrize(
    ("dialect", "withheld"), [("0.5.0", "ATLAS_TOKEN"), ("0.5.6", "ATLAS_TOKEN"), ("1.1.2", "CONSUL_HTTP_TOKEN")]
)
def test_what_nomad_withholds_is_not_inherited(dialect, withheld, monkeypatch):
    secrets = {withheld, "VAULT_TOKEN", "CONSUL_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS"}
    for name in secrets:
        monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("OTHER", "visible")

    told = environment(full_job(Env={"VAULT_TOKEN": "own"}), dialect).variables

    assert told.keys() & secrets == {"VAULT_TOKEN"}
    assert (told["VAULT_TOKEN"], told["OTHER"]) == ("own", "visible")


def test_the_old_client_cleans_every_name_and_the_new_one_those_of_nomad():
    job = full_job(Env={"a.b-c": "1", "2x": "2"})

    assert {"a_b_c", "_x"} <= environment(job, "0.5.6").variables.keys()
    for dialect in ("0.5.0", "1.1.2"):
        assert {"a.b-c", "2x"} <= environment(job, dialect).variables.keys()


# --- references ---


@pytest.mark.parametrize("dialect", VARIABLES)
def test_references_in_variables_are_replaced_and_unknown_ones_stay(dialect, monkeypatch):
    monkeypatch.setenv("INHERITED", "at ${NOMAD_ALLOC_INDEX}")
    own = {"A": "${NOMAD_TASK_NAME}-${node.datacenter} ${attr.kernel.name}", "B": "${nobody} ${INHERITED} $NOMAD_DC"}

    told = environment(full_job(Env=own), dialect).variables

    assert told["A"] == "web-dc7 linux"
    assert told["INHERITED"] == "at 3"
    # The old client knows what is inherited only when all variables are made.
    assert told["B"] == ("${nobody} ${INHERITED} $NOMAD_DC" if dialect in OLD else "${nobody} at 3 $NOMAD_DC")


@pytest.mark.parametrize("dialect", VARIABLES)
def test_references_in_settings_are_replaced(dialect):
    found = environment(full_job(Env={"OWN": "${NOMAD_META_OWNER}"}), dialect)

    assert found.fill("${NOMAD_ALLOC_DIR}/${OWN}: $OWN $$ 100% ${node.unique.name}") == (
        f"/run/{ALLOC}/alloc/me: $OWN $$ 100% {os.uname().nodename}"
    )


@pytest.mark.parametrize("dialect", OLD)
@pytest.mark.parametrize("text", ["${NOBODY}", "${A:-b}", "%{http_code}", "$${NOBODY}", '${env["HOME"]}'])
def test_the_old_client_leaves_what_is_the_shells(dialect, text):
    assert environment(full_job(), dialect).fill(text) == text


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$${A:-b}", "${A:-b}"),
        ("%%{http_code}", "%{http_code}"),
        ('${ env["OWN"] }/${env.OWN}', "x/x"),
        ("${node.attr.kernel.name}", "linux"),
        ("$$${OWN}", "$${OWN}"),
        ("${OWN}{}", "x{}"),
    ],
)
def test_the_settings_of_the_new_client_are_templates(text, filled):
    assert environment(full_job(Env={"OWN": "x"}), "1.1.2").fill(text) == filled


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${NOBODY}", 'Unknown variable: There is no variable named "NOBODY".'),
        ('${env["NOBODY"]}', 'Unknown variable: There is no variable named "NOBODY".'),
        ("${A:-b}", "${A:-b} is more than a reference to a variable: write $${ for what is the shell's"),
        ("${upper(OWN)}", "${upper(OWN)} is more than"),
        ("${A", "${A is more than"),
        ("%{http_code}", "%{http_code} is more than a reference to a variable: write %%{ for what is the shell's"),
        ("${attr.cpu.frequency}", "${attr.cpu.frequency} cannot be known here"),
        ("${NOMAD_ADDR_http}", "${NOMAD_ADDR_http} cannot be known here"),
    ],
)
def test_a_template_that_cannot_be_filled_stands_in_the_way(text, problem):
    job = job_of({**full_job()["TaskGroups"][0]["Tasks"][0], "Config": {"command": "echo", "args": [text]}})
    placed = placement_of(job, "1.1.2")

    assert problem in problem_of(placed, placed.group.tasks[0])


def test_no_recorded_job_refers_to_what_is_not_known():
    """Their settings are the shell's: nothing of them is changed, and nothing stands in the way."""
    count = 0
    for scenario in scenarios():
        spoken = dialect_of(scenario.version)
        for told in (found.job for found in read_jobs(str(scenario.path / "job.json"), spoken)):
            for group in told.task_groups:
                for task in group.tasks or ():
                    placed = Placement(spoken, "global", told, group, "a.b[0]")
                    found = environment_of(placed, task, TaskDirectory(Path("/run"), ALLOC, task.name))
                    texts = json.loads(msgspec.json.encode(task.config or {})).get("args") or ()
                    assert [found.fill(text) for text in texts] == list(texts)
                    count += task.driver == "raw_exec"
    assert count >= 79


# --- what cannot be known ---


@pytest.mark.parametrize("dialect", VARIABLES)
def test_what_cannot_be_known_is_named(dialect):
    placed = placement_of(full_job(Env={"A": "${attr.cpu.frequency} ${nobody}"}), dialect)

    names = ["NOMAD_ADDR_http", "NOMAD_ADDR_rpc-x", "NOMAD_HOST_PORT_rpc-x", "NOMAD_IP_http", "NOMAD_IP_rpc-x"]
    names += ["NOMAD_PORT_rpc-x", "${attr.cpu.frequency}"]
    names += ["NOMAD_ADDR_admin", "NOMAD_IP_admin"] if dialect == "1.1.2" else []
    assert notes_of(placed, placed.group.tasks[0]) == f"{', '.join(sorted(names))} cannot be known here"


def test_of_a_job_that_asks_for_nothing_of_the_kind_nothing_is_said():
    placed = placement_of(job_of(script("web", "true")), "1.1.2")

    assert notes_of(placed, placed.group.tasks[0]) == ""


def test_a_task_that_cannot_be_started_is_placed_and_fails_its_validation(tmp_path):
    wrong = {"Name": "web", "Driver": "raw_exec", "Config": {"command": "echo", "args": ["${NOBODY}"]}}

    for task in (wrong, {**wrong, "Config": {}}, {**wrong, "Driver": "docker"}):
        engine = run(job_of(task), tmp_path)

        told = [type(event) for event in events_of(engine, only(engine), "web")]
        assert told == [events.Received, events.TaskSetup, events.FailedValidation, events.NotRestarting]


# --- directories, and real processes ---


OWN = ("/local", "/secrets", "/tmp")  # noqa: S108 - of the task's directory


def only(engine: Engine) -> str:
    (alloc,) = engine.allocations().ids
    return alloc


def test_the_directories_are_those_of_nomad_and_their_owners_alone(tmp_path):
    engine = run(job_of(script("main", "true"), script("alloc", "true")), tmp_path)

    root = tmp_path / only(engine)
    folders = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()}
    shared = {"alloc", "alloc/data", "alloc/logs", "alloc/tmp"}
    own = {f"{task}{part}" for task in ("main", "%61lloc") for part in ("", *OWN)}
    assert folders == shared | own
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_dir()} == {0o700}
    assert {path.name for path in (root / "alloc" / "logs").iterdir()} == {
        f"{task}.{stream}.0" for task in ("main", "%61lloc") for stream in ("stdout", "stderr")
    }


@pytest.mark.parametrize("dialect", [*OLD, "1.1.2"])
def test_what_tasks_share_is_in_the_directory_of_the_allocation(tmp_path, dialect):
    wait = "until [ -e $NOMAD_ALLOC_DIR/x ]; do sleep 0.02; done; cp $NOMAD_ALLOC_DIR/x ${NOMAD_TASK_DIR}/y"
    writer = script("one", "echo $NOMAD_TASK_NAME > $NOMAD_ALLOC_DIR/new; mv $NOMAD_ALLOC_DIR/new $NOMAD_ALLOC_DIR/x")

    engine = run(job_of(writer, script("other", wait)), tmp_path, engine=Engine(MemoryLog(dialect), seed=1))

    root = tmp_path / only(engine)
    assert engine.snapshot(only(engine)).client_status == "complete"
    assert (root / "alloc" / "x").read_text(encoding="utf-8") == "one\n"
    assert (root / "other" / "local" / "y").read_text(encoding="utf-8") == "one\n"


def test_what_a_task_keeps_is_there_after_a_restart(tmp_path):
    text = "for d in $NOMAD_ALLOC_DIR/data $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR tmp; do echo x >> $d/kept; done; exit 1"

    engine = run(job_of(script("main", text), attempts=2), tmp_path)

    root = tmp_path / only(engine)
    assert engine.task(only(engine), "main").restarts == 2
    for folder in ("alloc/data", "main/local", "main/secrets", "main/tmp"):
        assert (root / folder / "kept").read_text(encoding="utf-8") == 3 * "x\n"


def test_a_command_is_looked_for_in_the_directories_of_the_task_first(tmp_path):
    make = "cd ../main; mkdir local; printf '#!/bin/sh\\necho mine; exit 4' > local/true; chmod +x local/true"
    first = script("first", f"mkdir ../main; {make}", Lifecycle={"Hook": "prestart"})
    main = {"Name": "main", "Driver": "raw_exec", "Config": {"command": "true"}}

    engine = run(job_of(first, main), tmp_path)

    (ended,) = [e for e in events_of(engine, only(engine), "main") if isinstance(e, events.Terminated)]
    assert ended.exit_code == 4
    assert output(tmp_path, only(engine)).read_text(encoding="utf-8") == "mine\n"


def test_a_command_that_another_task_makes_is_found_when_it_is_there(tmp_path):
    make = "printf '#!/bin/sh\\nexit 5' > $NOMAD_ALLOC_DIR/made; chmod +x $NOMAD_ALLOC_DIR/made"
    main = {"Name": "main", "Driver": "raw_exec", "Config": {"command": "${NOMAD_ALLOC_DIR}/made"}}
    job = job_of(script("first", make, Lifecycle={"Hook": "prestart"}), main)
    placed = placement_of(job, "1.1.2")
    assert problem_of(placed, placed.group.tasks[1]) == ""

    engine = run(job, tmp_path)

    (ended,) = [e for e in events_of(engine, only(engine), "main") if isinstance(e, events.Terminated)]
    assert ended.exit_code == 5


# --- the command ---


def test_a_template_that_cannot_be_filled_is_refused_before_anything_is_begun(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job_of(script("main", "echo ${A:-b}"))), encoding="utf-8")

    message = refused(called("run", path, "--log", tmp_path / "tasks.db"))

    assert "task 'main': ${A:-b} is more than a reference to a variable: write $${ for what is the shell's" in message
    assert not (tmp_path / "tasks.db").exists()


def test_what_cannot_be_known_is_said_once_for_all_allocations(tmp_path):
    path = tmp_path / "job.json"
    task = script("main", "true", Resources={"Networks": [{"DynamicPorts": [{"Label": "http"}]}]})
    path.write_text(json.dumps(job_of(task, count=2)), encoding="utf-8")

    told = called("run", path, "--log", tmp_path / "tasks.db")

    names = "NOMAD_ADDR_http, NOMAD_HOST_PORT_http, NOMAD_IP_http, NOMAD_PORT_http"
    assert told.stderr.count(f"note: task 'main': {names} cannot be known here\n") == 1
