"""Jobs as people write them become what a Nomad stores: as recorded, and as the source of both versions says."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.recordings import Scenario, actions, bodies, scenarios
from taskfold import Engine, events
from taskfold.errors import DecodeError, IdConflict
from taskfold.model.dialect import DIALECTS, Dialect
from taskfold.model.record import Placed, Write
from taskfold.nomad.jobs.canonical import GIVEN_BY_A_SERVER, canonical_job
from taskfold.nomad.jobs.defaults import Slot, slots
from taskfold.nomad.views.job import Job

OLDEST, OLD, NEW = "0.5.0", "0.5.6", "1.1.2"
SECOND_NS = 1_000_000_000


def spelled(text: bytes | str) -> Any:
    """Return JSON with its numbers as they are spelled."""
    return json.loads(text, parse_int=lambda digits: f"int {digits}", parse_float=lambda digits: f"float {digits}")


def submitted(scenario: Scenario) -> dict[int, dict[str, Any]]:
    """Return every job that was sent, by the JobModifyIndex that it got."""
    return {
        json.loads(action["body"])["JobModifyIndex"]: action["request_body"]["Job"]
        for action in actions(scenario)
        if action.get("status") == 200 and isinstance(action.get("request_body"), dict)
        if "Job" in action["request_body"] and "JobModifyIndex" in action["body"]
    }


def recorded(scenario: Scenario) -> list[bytes]:
    """Return the Job of every recorded body."""
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    return list(dict.fromkeys(bytes(decode(answer.body)["Job"]) for answer in bodies(scenario)))


def without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_empty_lists(each) for name, each in value.items()}
    return ([without_empty_lists(each) for each in value] or None) if isinstance(value, list) else value


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_a_job_that_was_sent_becomes_the_job_of_the_recorded_allocations(scenario: Scenario) -> None:
    sent = submitted(scenario)
    assert sent or not recorded(scenario)
    for text in recorded(scenario):
        told = json.loads(text)
        own = sent[told["JobModifyIndex"]]
        assert not own.keys() & set(GIVEN_BY_A_SERVER)

        made, was = spelled(canonical_job(json.dumps(own), scenario.version)), spelled(text)

        assert list(made) == list(was)
        for name in GIVEN_BY_A_SERVER:
            made.pop(name, None), was.pop(name, None)
        if told["JobModifyIndex"] > min(sent):  # a later version may have an empty list where the first has null
            made, was = without_empty_lists(made), without_empty_lists(was)
        assert made == was


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_the_job_of_every_recorded_allocation_comes_back_byte_for_byte(scenario: Scenario) -> None:
    for text in recorded(scenario):
        assert canonical_job(text, scenario.version) == text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_recorded_job_is_placed_byte_for_byte_in_every_dialect(dialect: str) -> None:
    with Engine(dialect=dialect) as engine:
        for scenario in scenarios():
            for place, text in enumerate(recorded(scenario)):
                alloc = f"{scenario}-{place}"
                engine.place({"ID": alloc, "Job": msgspec.Raw(text)})
                engine.update(alloc, {"Job": msgspec.Raw(text)})
                assert engine.snapshot(alloc).fields["Job"] == text


# --- whatever people write ---


WORDS = ("", "a", "x-${JOB}", "${BASE}", "file", "signal", "sighup", "service", "batch", "system", '\u2028\n"')
HOLD_ANY_JSON = ("Connect", "Header", "Policy")


def any_stanza(of: Any, dialect: Dialect, rng: Random, depth: int = 4) -> dict[str, Any]:
    """Return a stanza of any shape: fields that are said, null or left out, and fields that it cannot have."""
    found: dict[str, Any] = {"OfNobody": {"a": [1, None]}} if rng.random() < 0.2 else {}
    fullness = rng.choice([0.1, 0.3, 0.8])
    for name, slot in slots(of, dialect).items():
        if rng.random() < fullness and name not in HOLD_ANY_JSON:
            is_said = slot is not None and rng.random() < 0.9
            found[name] = any_value(slot, dialect, rng, depth) if slot is not None and is_said else None
            if slot is None:
                found[name] = "of another Nomad"
    return found


def any_value(slot: Slot, dialect: Dialect, rng: Random, depth: int) -> Any:
    def words(count: int) -> list[str]:
        return rng.choices(WORDS, k=rng.randint(0, count))

    def stanzas(count: int) -> list[dict[str, Any]]:
        return [any_stanza(slot.of, dialect, rng, depth - 1) for _ in range(rng.randint(0, count if depth else 0))]

    numbers = (0, 0, 1, 7, 2**62)
    values: dict[str, Callable[[], Any]] = {
        "text": lambda: rng.choice(WORDS),
        "number": lambda: rng.choice(numbers),
        "duration": lambda: rng.choice((*numbers, 1e10)),
        "flag": lambda: rng.random() < 0.5,
        "map": lambda: dict(zip(words(2), words(2), strict=False)),
        "floats": lambda: {name: rng.choice((1, -1.5, 1e30, "7", [2])) for name in words(2)},
        "list": lambda: words(2),
        "stanza": lambda: any_stanza(slot.of, dialect, rng, depth - 1) if depth else None,
        "stanzas": lambda: stanzas(2),
        "named_stanzas": lambda: dict(zip(words(1), stanzas(1), strict=False)),
    }
    return values[slot.kind]()


def check_whole(stanza: dict[str, Any], of: Any, dialect: Dialect, written: dict[str, Any]) -> None:
    """Check that a stanza has every field that its dialect has, in order, and what was written of no Nomad's."""
    fields = {name: slot for name, slot in slots(of, dialect).items() if slot is not None and slot.is_stored}
    assert stanza.keys() == fields.keys() | ({"OfNobody"} & written.keys())
    assert list(stanza) == sorted(stanza)
    for name in ("TaskGroups", "Tasks"):
        for whole, told in zip(stanza.get(name) or (), written.get(name) or (), strict=True):
            check_whole(whole, fields[name].of, dialect, told)


@given(st.randoms(use_true_random=False), st.sampled_from(list(DIALECTS.values())))
def test_a_canonical_job_stays_as_it_is_and_has_every_field_of_its_dialect(rng: Random, dialect: Dialect) -> None:
    job = any_stanza(Job, dialect, rng)

    once = canonical_job(msgspec.json.encode(job), dialect)

    assert canonical_job(once, dialect) == once
    assert canonical_job(b'{"Job":%b}' % once, dialect) == once
    check_whole(json.loads(once), Job, dialect, job)


@pytest.mark.parametrize("scenario", scenarios(), ids=str)
def test_what_a_recorded_job_became_stays_as_it_is(scenario: Scenario) -> None:
    for job in submitted(scenario).values():
        once = canonical_job(json.dumps(job, indent=1), scenario.version)
        assert canonical_job(once, scenario.version) == once
        assert canonical_job(json.dumps({"Job": job}), scenario.version) == once


# --- what was not recorded: facts of Nomad's source ---


def made(job: dict[str, Any], dialect: str = NEW) -> Any:
    return json.loads(canonical_job(json.dumps(job), dialect))


def made_group(group: dict[str, Any], dialect: str = NEW, **job: Any) -> Any:
    return made({"ID": "job", **job, "TaskGroups": [{"Name": "group", **group}]}, dialect)["TaskGroups"][0]


def made_task(task: dict[str, Any], dialect: str = NEW, **job: Any) -> Any:
    return made_group({"Tasks": [{"Name": "task", **task}]}, dialect, **job)["Tasks"][0]


def test_a_job_that_says_nothing_is_a_service_of_normal_priority() -> None:
    for dialect in DIALECTS:
        job = made({"ID": "job", "Name": None}, dialect)
        assert (job["Name"], job["Type"], job["Priority"], job["Region"]) == ("job", "service", 50, "global")
        assert job["Status"] == "pending"
    assert (job["Namespace"], job["Version"], job["Stop"]) == ("default", 0, False)
    assert json.loads(canonical_job('{"ID":"a"}', NEW, region="eu"))["Region"] == "eu"


@pytest.mark.parametrize(("dialect", "cpu_and_memory"), [(OLDEST, (100, 10)), (OLD, (100, 10)), (NEW, (100, 300))])
def test_a_task_that_says_nothing_gets_little(dialect: str, cpu_and_memory: tuple[int, int]) -> None:
    task = made_task({}, dialect)

    assert (task["Resources"]["CPU"], task["Resources"]["MemoryMB"]) == cpu_and_memory
    assert task["KillTimeout"] == 5 * SECOND_NS
    assert task["LogConfig"] == {"MaxFiles": 10, "MaxFileSizeMB": 10}
    assert made_task({"KillTimeout": 0}, dialect)["KillTimeout"] == 5 * SECOND_NS
    assert made_group({}, dialect)["EphemeralDisk"] == {"Migrate": False, "SizeMB": 300, "Sticky": False}


def test_cores_stand_in_for_a_cpu_that_is_not_said() -> None:
    assert made_task({"Resources": {"Cores": 2}})["Resources"]["CPU"] == 0
    assert made_task({"Resources": {"Cores": 2, "CPU": 50}})["Resources"]["CPU"] == 50


def test_the_disk_of_tasks_is_that_of_the_group_before_agents_did_this() -> None:
    tasks = {"Tasks": [{"Name": "a", "Resources": {"DiskMB": 20}}, {"Name": "b", "Resources": {"DiskMB": 30}}]}

    assert made_group(tasks, OLDEST)["EphemeralDisk"]["SizeMB"] == 50
    assert made_group(tasks, OLD)["EphemeralDisk"]["SizeMB"] == 300
    assert made_group(tasks, OLD)["Tasks"][0]["Resources"]["DiskMB"] == 0


@pytest.mark.parametrize(
    ("dialect", "job_type", "group"),
    [
        (OLD, "service", {"Attempts": 5, "Delay": 15 * SECOND_NS, "Interval": 60 * SECOND_NS, "Mode": "delay"}),
        (NEW, "service", {"Attempts": 5, "Delay": 15 * SECOND_NS, "Interval": 1800 * SECOND_NS, "Mode": "fail"}),
        (NEW, "batch", {"Attempts": 5, "Delay": 15 * SECOND_NS, "Interval": 86400 * SECOND_NS, "Mode": "fail"}),
        (OLDEST, "batch", {"Attempts": 5, "Delay": 0, "Interval": 0, "Mode": ""}),
    ],
)
def test_a_restart_policy_is_completed_by_the_default_of_its_type(dialect: str, job_type: str, group: Any) -> None:
    task = {"Name": "task", "RestartPolicy": {"Attempts": 1}}

    found = made_group({"RestartPolicy": {"Attempts": 5}, "Tasks": [task]}, dialect, Type=job_type)

    assert found["RestartPolicy"] == group
    assert found["Tasks"][0].get("RestartPolicy") == (group | {"Attempts": 1} if dialect == NEW else None)


def test_what_a_job_says_of_its_groups_is_handed_down_and_stands_there() -> None:
    job = made(
        {
            "ID": "job",
            "Update": {"MaxParallel": 3, "MinHealthyTime": 7},
            "Reschedule": {"Attempts": 4},
            "Migrate": {"MaxParallel": 2},
            "ConsulNamespace": "apps",
            "TaskGroups": [{"Name": "a"}, {"Name": "b", "Update": {"Canary": 1}, "ReschedulePolicy": {"Attempts": 9}}],
        }
    )
    a, b = job["TaskGroups"]

    assert (a["Update"]["MaxParallel"], a["Update"]["MinHealthyTime"], a["Update"]["Canary"]) == (3, 7, 0)
    assert (b["Update"]["MaxParallel"], b["Update"]["Canary"], b["Update"]["HealthCheck"]) == (3, 1, "checks")
    assert (a["ReschedulePolicy"]["Attempts"], b["ReschedulePolicy"]["Attempts"]) == (4, 9)
    assert a["ReschedulePolicy"]["DelayFunction"] == "exponential"
    assert a["Migrate"]["MaxParallel"] == 2
    assert a["Consul"] == {"Namespace": "apps"}
    assert job["ConsulNamespace"] == ""
    assert {name for name, value in job["Update"].items() if value} == {"MaxParallel", "Stagger"}
    assert not job.keys() & {"Migrate", "Reschedule"}


@pytest.mark.parametrize("job_type", ["batch", "system"])
def test_only_a_service_is_updated_and_migrated_without_being_told(job_type: str) -> None:
    group = made_group({}, Type=job_type)

    assert (group["Update"], group["Migrate"]) == (None, None)
    assert (group["ReschedulePolicy"] is None) == (job_type == "system")
    assert made_group({})["Update"]["ProgressDeadline"] == 600 * SECOND_NS


def test_secrets_are_not_kept() -> None:
    for dialect in DIALECTS:
        job = made({"ID": "job", "VaultToken": "secret", "ConsulToken": "secret"}, dialect)
        assert "secret" not in json.dumps(job)


def test_services_and_checks_get_names() -> None:
    services = [{"Checks": [{"Type": "tcp"}]}, {"Name": "${BASE}-web-${OTHER}", "Checks": [{"Name": "mine"}]}]
    for dialect in (OLD, NEW):
        first, second = made_task({"Services": services}, dialect)["Services"]
        assert (first["Name"], first["Checks"][0]["Name"]) == ("job-group-task", 'service: "job-group-task" check')
        assert (second["Name"], second["Checks"][0]["Name"]) == ("job-group-task-web-${OTHER}", "mine")
    assert (first["AddressMode"], first["OnUpdate"], first["Namespace"]) == ("auto", "require_healthy", "default")
    of_group = made_group({"Services": [{"Name": "${TASK}"}, {}]})["Services"]
    assert [service["Name"] for service in of_group] == ["group", "job-group"]


def test_what_a_service_says_of_its_checks_is_handed_down() -> None:
    service = {
        "OnUpdate": "ignore",
        "CheckRestart": {"Limit": 3},
        "Checks": [{"Name": "a"}, {"Name": "b", "OnUpdate": "x", "CheckRestart": {"Limit": 1, "Grace": 5}}],
    }
    (found,) = made_task({"Services": [service]})["Services"]
    a, b = found["Checks"]

    assert (a["OnUpdate"], a["CheckRestart"]) == (
        "ignore",
        {"Grace": SECOND_NS, "IgnoreWarnings": False, "Limit": 3},
    )
    assert (b["OnUpdate"], b["CheckRestart"]["Limit"], b["CheckRestart"]["Grace"]) == ("x", 1, 5)
    assert "CheckRestart" not in found


def test_templates_artifacts_and_vault_are_completed() -> None:
    task = made_task(
        {
            "Templates": [
                {"DestPath": "a"},
                {"ChangeMode": "signal"},
                {"ChangeMode": "signal", "ChangeSignal": "sigusr1"},
            ],
            "Artifacts": [
                {"GetterSource": "http://h/x/y.zip"},
                {"GetterSource": "http://h/x/y.zip", "GetterMode": "file"},
            ],
            "Vault": {"Policies": ["p"]},
        },
        VaultNamespace="ns",
    )
    first, *others = task["Templates"]

    assert (first["ChangeMode"], first["Splay"], first["Perms"]) == ("restart", 5 * SECOND_NS, "0644")
    assert (first["LeftDelim"], first["RightDelim"], first["ChangeSignal"]) == ("{{", "}}", "")
    assert [each["ChangeSignal"] for each in others] == ["SIGHUP", "SIGUSR1"]
    assert [each["RelativeDest"] for each in task["Artifacts"]] == ["local/", "local/y.zip"]
    assert task["Vault"] == {
        "ChangeMode": "restart",
        "ChangeSignal": "SIGHUP",
        "Env": True,
        "Namespace": "ns",
        "Policies": ["p"],
    }


def test_groups_are_constrained_to_nodes_that_have_what_their_tasks_need() -> None:
    task = {"Name": "task", "KillSignal": "SIGINT", "Vault": {"ChangeMode": "signal", "ChangeSignal": "sighup"}}
    vault = {"LTarget": "${attr.vault.version}", "Operand": "semver", "RTarget": ">= 0.6.1"}
    signals = {"LTarget": "${attr.os.signals}", "Operand": "set_contains", "RTarget": "SIGHUP,SIGINT"}

    assert made_group({"Tasks": [task]})["Constraints"] == [vault, signals]
    old = made_group({"Tasks": [task]}, OLD)["Constraints"]
    assert [each["Operand"] for each in old] == ["version", "set_contains"]
    own = {"LTarget": "${attr.vault.version}", "Operand": ">=", "RTarget": "1.0"}
    assert made_group({"Constraints": [own], "Tasks": [{"Name": "t", "Vault": {}}]})["Constraints"] == [own]


def test_a_scaling_policy_gives_the_count_and_names_what_it_scales() -> None:
    group = made_group({"Scaling": {"Min": 2, "Max": 9}})

    assert (group["Count"], group["Scaling"]["Enabled"], group["Scaling"]["Type"]) == (2, True, "horizontal")
    assert group["Scaling"]["Target"] == {"Namespace": "default", "Job": "job", "Group": "group"}
    assert made_group({"Count": 3, "Scaling": {}})["Scaling"]["Min"] == 3


def test_the_rest_of_the_stanzas_has_its_defaults() -> None:
    job = made(
        {
            "ID": "job",
            "Periodic": {"Spec": "@daily"},
            "ParameterizedJob": {},
            "Multiregion": {"Regions": [{"Name": "eu"}]},
            "Spreads": [{"Attribute": "a"}],
            "Affinities": [{"LTarget": "a"}],
        }
    )
    assert job["Periodic"] == {
        "Enabled": True,
        "ProhibitOverlap": False,
        "Spec": "@daily",
        "SpecType": "cron",
        "TimeZone": "UTC",
    }
    assert job["ParameterizedJob"]["Payload"] == "optional"
    assert job["Multiregion"]["Strategy"] == {"MaxParallel": 0, "OnFailure": ""}
    assert job["Multiregion"]["Regions"] == [{"Count": 1, "Datacenters": [], "Meta": {}, "Name": "eu"}]
    assert (job["Spreads"][0]["Weight"], job["Affinities"][0]["Weight"]) == (50, 50)
    task = made_task(
        {
            "VolumeMounts": [{"Volume": "v"}],
            "CSIPluginConfig": {"ID": "p"},
            "Lifecycle": {"Hook": "", "Sidecar": False},
            "Resources": {"Networks": [{"DynamicPorts": [{"Label": "http"}]}], "Devices": [{"Name": "gpu"}]},
        }
    )
    assert (task["VolumeMounts"][0]["PropagationMode"], task["CSIPluginConfig"]["MountDir"]) == ("private", "/csi")
    assert task["Lifecycle"] is None
    assert task["Resources"]["Networks"][0]["DynamicPorts"][0]["HostNetwork"] == "default"
    assert task["Resources"]["Networks"][0]["MBits"] == 0
    assert task["Resources"]["Devices"][0]["Count"] == 1
    old = made_task({"Resources": {"Networks": [{}]}}, OLD)
    assert old["Resources"]["Networks"][0]["MBits"] == 10


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("3", "3.0", "3.0"),
        ("-7", "-7.0", "-7.0"),
        ("0", "0.0", "0.0"),
        ("0.25", "0.25", "0.25"),
        ("1e30", "1E+30", "1e+30"),
        ("12345678901234567890", "1.2345678901234567E+19", "12345678901234567168.0"),
        ("1234567", "1.234567E+06", "1234567.0"),
        ("0.00000012", "1.2E-07", "1.2e-7"),
    ],
)
def test_numbers_of_a_config_are_floats_as_the_encoder_of_the_version_writes_them(
    number: str, old: str, new: str
) -> None:
    config = f'{{"n":{number},"deep":[{{"text":"7"}}]}}'
    job = f'{{"ID":"a","TaskGroups":[{{"Tasks":[{{"Config":{config}}}]}}]}}'
    for dialect, expected in ((OLD, old), (NEW, new)):
        assert b'"Config":{"n":%b,"deep":[{"text":"7"}]}' % expected.encode() in canonical_job(job, dialect)


# --- what a person wrote, and what cannot be read ---


def test_what_no_nomad_knows_is_kept_and_what_only_another_one_knows_is_not() -> None:
    job = {"ID": "a", "Own": {"x": [1, 2.50]}, "TaskGroups": [{"Name": "g", "Zone": "b", "ReschedulePolicy": {}}]}

    old, new = made(job, OLD), made(job, NEW)

    assert old["Own"] == new["Own"] == {"x": [1, 2.5]}
    assert list(new) == sorted(new)
    assert "ReschedulePolicy" not in old["TaskGroups"][0]
    assert "ReschedulePolicy" in new["TaskGroups"][0]
    assert old["TaskGroups"][0]["Zone"] == "b"
    network = {"Public": False, "DynamicPorts": [{"Label": "http", "Note": "mine"}]}
    (found,) = made_task({"Resources": {"Networks": [network]}}, OLD)["Resources"]["Networks"]
    assert "Public" not in found
    assert found["DynamicPorts"] == [{"Label": "http", "Note": "mine", "Value": 0}]


def test_what_a_server_gave_stays_as_it_was_told() -> None:
    told = {"Version": 3, "Status": "running", "Stable": True, "SubmitTime": 5, "ModifyIndex": 7}

    assert told.items() <= made({"ID": "a", **told}).items()


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ("7", r"\$: expected an object, found 7"),
        ('"job"', r'\$: expected an object, found "job"'),
        ("{", r"\$: not the JSON of a job"),
        ('{"Job":[]}', r"\$\.Job: expected an object, found \[\]"),
        ('{"Priority":"high"}', r'\$\.Priority: expected a whole number of 64 bits, found "high"'),
        ('{"Priority":1.5}', r"\$\.Priority: expected a whole number of 64 bits, found 1\.5"),
        ('{"Priority":1e400}', r"\$\.Priority: expected a whole number of 64 bits"),
        ('{"TaskGroups":{}}', r"\$\.TaskGroups: expected a list, found \{\}"),
        ('{"TaskGroups":[null]}', r"\$\.TaskGroups\[0\]: expected an object, found null"),
        (
            '{"Job":{"TaskGroups":[{"Tasks":[{"KillTimeout":"5s"}]}]}}',
            r'\$\.Job\.TaskGroups\[0\]\.Tasks\[0\]\.KillTimeout: expected nanoseconds, .*, found "5s"',
        ),
        ('{"AllAtOnce":1}', r"\$\.AllAtOnce: expected true or false, found 1"),
        ('{"Meta":{"a":1}}', r"Expected `str`, got `int` - at `\$\.Meta"),
        ('{"Datacenters":[1]}', r"Expected `str`, got `int` - at `\$\.Datacenters\[0\]`"),
        ('{"TaskGroups":[{"Tasks":[{"Config":{"n":1e400}}]}]}', r"Config: expected a number of 64 bits, found 1e400"),
        (r'{"Name":"\ud800"}', r"\$: not the JSON of a job"),
        ('{"Own":' + "[" * 200_000 + "]" * 200_000 + "}", r"\$: not the JSON of a job"),
    ],
)
def test_what_is_no_job_is_told_with_its_path_and_what_would_be_right(job: str, why: str) -> None:
    for dialect in DIALECTS:
        with pytest.raises(DecodeError, match=why):
            canonical_job(job, dialect)
    with Engine(dialect=NEW) as engine:
        if "not the JSON" not in why:  # that is told of the allocation
            with pytest.raises(DecodeError, match=r"\$\.Job"):
                engine.place({"ID": "a", "Job": msgspec.Raw(job.encode())})
        assert engine.index == 0


def test_what_is_no_text_is_told() -> None:
    for job in (b'{"Name":"\xff"}', b'{"Own":"\xff"}', b'{"\xff":1}', b"\xff", b"", "\ud800"):
        with pytest.raises(DecodeError, match=r"^\$: not the JSON of a job"):
            canonical_job(job, NEW)


# --- where it is used ---


JOB = {"ID": "web", "TaskGroups": [{"Name": "group", "Tasks": [{"Name": "main", "Driver": "raw_exec"}]}]}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_job_is_stored_canonical_however_it_is_placed(dialect: str) -> None:
    whole = canonical_job(json.dumps(JOB), dialect)
    body = msgspec.json.encode({"JobID": "web", "Job": JOB})
    with Engine(dialect=dialect) as engine:
        engine.place({"ID": "mapping", "Job": JOB})
        engine.place(json.dumps({"ID": "text", "Job": {"Job": JOB}}, indent=2))
        engine.place(engine.snapshot("mapping").__class__.from_json(b'{"ID":"snapshot",' + body[1:], dialect))
        engine.append([Write(alloc="write", event=Placed(body=msgspec.Raw(body)))])
        engine.place({"ID": "update"})
        engine.update("update", {"Job": JOB})

        for alloc in ("mapping", "text", "snapshot", "write", "update"):
            assert engine.snapshot(alloc).fields["Job"] == whole
        engine.place({"ID": "none", "Job": None})
        assert engine.snapshot("none").fields["Job"] == b"null"


def test_a_job_that_is_sent_again_as_it_was_written_is_a_repeat() -> None:
    def placing(job: Any, id: str = "place-1") -> Write:
        return Write(alloc="a", event=Placed(body=msgspec.Raw(msgspec.json.encode({"Job": job}))), id=id)

    with Engine(dialect=NEW) as engine:
        engine.append([placing(JOB)])
        assert engine.append([placing(JOB)]) == [None]
        assert engine.append([placing(json.loads(canonical_job(json.dumps(JOB), NEW)))]) == [None]
        with pytest.raises(IdConflict):
            engine.record("a", "main", events.Received(), id="place-1")
        [(_, refusal)] = engine.check([placing({**JOB, "Priority": 7})])
        assert isinstance(refusal, IdConflict)
        engine.update("a", {"Job": JOB}, id="update-1")
        assert engine.update("a", {"Job": JOB}, id="update-1") is None
