"""What the documents show is what the code does today."""

import configparser
import doctest
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from random import Random

import msgspec
import pytest

from taskfold import AgentSettings, Engine, Recorder, replay
from taskfold.cli.follow import follow
from taskfold.effects import Effect
from taskfold.events import Terminated
from taskfold.fold.course import REASONS
from taskfold.fold.lifecycle import lifecycle_of
from taskfold.http.nomad.options import MAX_WAIT_NS
from taskfold.http.nomad.stream import HEARTBEAT_SECONDS
from taskfold.http.routes import ROUTES
from taskfold.http.serve.limits import Limits
from taskfold.inputs import INPUTS
from taskfold.log.check import check_log
from taskfold.log.seals import unsealed
from taskfold.model.record import INTERNAL_EVENTS, LogHeader, Record, Write
from taskfold.recording import agents, recorder
from taskfold.recording.agents import Backoff
from tools import pictures

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
LOG_FORMAT = (ROOT / "docs" / "log-format.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECORDS = {f"decisions/{path.name}" for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")}
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SEALED = re.search(r"```json\n(.*?)```", LOG_FORMAT, re.DOTALL)[1].encode()
LINES = unsealed(SEALED).decode().splitlines()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_header_line_is_the_one_that_is_written_today():
    header = msgspec.json.decode(LINES[0], type=LogHeader)

    assert msgspec.json.encode(header).decode() == LINES[0]
    assert header.lifecycle == lifecycle_of(header.dialect).fingerprint


def test_the_lines_are_a_whole_log(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(SEALED)

    assert check_log(path).is_whole
    assert len(list(replay(path))) == len(LINES) - 1


@pytest.mark.parametrize("line", LINES[1:])
def test_each_record_line_is_what_the_log_writes(line):
    record = msgspec.json.decode(line, type=Record)

    assert msgspec.json.encode(record).decode() == line


def test_every_kind_of_internal_event_has_its_line():
    shown = {type(msgspec.json.decode(line, type=Record).event) for line in LINES[1:]}

    assert set(INTERNAL_EVENTS) <= shown


def test_every_folder_has_its_floor_in_the_picture():
    picture = ARCHITECTURE.split("```text")[1].split("```")[0]
    package = ROOT / "engine" / "taskfold"
    names = {f"{path.name}/" for path in package.iterdir() if path.is_dir()}

    for name in names - {"__pycache__/"}:
        assert f" {name}" in picture, f"{name} has no floor in ARCHITECTURE.md"


@pytest.mark.parametrize("page", [page for page in PAGES if ">>> " in page.read_text("utf-8")], ids=name_of)
def test_what_a_page_shows_in_python_is_what_happens(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=flags)

    assert attempted
    assert failed == 0


@pytest.mark.parametrize("document", [*PAGES, *ROOT.glob("*.md")], ids=name_of)
def test_every_block_of_code_begins_after_the_one_before_it_has_ended(document):
    fences = re.findall(r"^ *```(\w*)", document.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(fences) % 2 == 0
    assert set(fences[1::2]) <= {""}


def test_the_examples_of_docstrings_can_be_pasted():
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "engine").rglob("*.py")}

    assert [str(path) for path, text in sources.items() if re.search(r">>> .*getfixture", text)] == []


def test_the_smallest_scheduler_that_the_page_shows_records_what_ended_its_process(tmp_path):
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    (shown, *_) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Popen" in block]
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -TERM $$\n", encoding="utf-8")
    killed.chmod(0o755)
    names: dict[str, Engine] = {}
    source = "".join(example.source for example in doctest.DocTestParser().get_examples(shown))
    exec(source.replace('"false"', repr(str(killed))), names)  # noqa: S102 - the page's own text

    ended = [r.event for r in names["engine"].history("203266e5") if isinstance(r.event, Terminated)]
    assert [(event.exit_code, event.signal) for event in ended] == [(143, 15)] * 2


def test_the_writes_that_the_page_about_serving_shows_are_taken():
    shown = re.search(r"```json\n(.*?)```", SERVING, re.DOTALL)[1].splitlines()
    engine = Engine(dialect="1.1.2")
    engine.append(msgspec.json.decode(line, type=Write) for line in shown[:2])

    assert [snapshot.job_id for snapshot in engine.allocations()] == ["example"]
    assert msgspec.json.decode(shown[2], type=Write).id == "redis-2"


def test_the_page_about_deciding_has_every_type_that_is_not_the_name_of_its_class():
    text = (ROOT / "docs" / "deciding.md").read_text(encoding="utf-8").partition("| class | `Type` |")[2]
    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", text, re.MULTILINE))
    kinds = [*INPUTS, *Effect.__subclasses__()]
    types = {kind.__name__: kind.__struct_config__.tag for kind in kinds}
    assert table == {name: tag for name, tag in types.items() if tag != name}


def test_the_page_about_data_has_every_reason_of_a_death_in_order():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("| reason | why it died |")[2]

    assert dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|$", text, re.MULTILINE)) == REASONS
    assert re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", text, re.MULTILINE) == list(REASONS)


def rows_of(title):
    """Return the cells of each row of the table below a title of the map."""
    table = ARCHITECTURE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]  # without the heading


@pytest.mark.parametrize("title", ["What must stay true, and what guards it", "Written once"])
def test_every_claim_of_the_map_names_the_test_that_holds_it(title):
    rows = rows_of(title)

    assert len(rows) > 5
    assert [claim for claim, *_, tests in rows if not re.match(r" ?`tests/[\w/]+\.py::test_\w+`", tests)] == []


def test_the_page_about_serving_names_every_endpoint():
    for route in ROUTES.values():
        path = route.path.replace("{id}", "<id>").replace("{job}", "<id>").replace("{action}", "restart")
        assert path in SERVING or route.name == "jobs", path


def test_the_page_about_serving_has_every_limit_with_its_value():
    limits = Limits()
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+(?: s)?) \|", SERVING, re.MULTILINE))

    assert told == {
        name: f"{getattr(limits, name):,}" + (" s" if name.endswith("_timeout") else "")
        for name in Limits.__struct_fields__
    }
    assert f"after `wait` at the latest: {MAX_WAIT_NS // 10**9} seconds" in SERVING
    assert f"`{{}}` at once and every {HEARTBEAT_SECONDS} seconds" in SERVING


def shown_runs() -> list[tuple[str, str]]:
    """Return each command on a file of examples/ that a page shows with its output, and that output."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    blocks = [block for text in texts for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]
    parts = (part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part)
    runs = (part.partition("\n") for part in parts)
    return [
        (command, output.strip())
        for command, _, output in runs
        if output.strip() and (" examples/" in command or command.startswith("taskfold policy"))
    ]


def test_the_run_that_a_page_shows_is_what_happens_but_for_times_and_names(tmp_path):
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n\$ taskfold run examples/job.json --log tasks.db\n(.*?)```", page, re.DOTALL)[1]
    command = [sys.executable, "-m", "taskfold", "run", str(ROOT / "examples" / "job.json"), "--log", "tasks.db"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "engine")}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )

    def steady(text: str) -> str:
        return re.sub(r"^[-0-9]+ [0-9:.]+  [0-9a-f]{8}|\S+ms$", "…", text, flags=re.MULTILINE)

    assert steady(ran.stdout) == steady(shown)


def test_the_pages_show_what_is_asked_most():
    assert {command.split()[1] for command, _ in shown_runs()} >= {"replay", "history", "verify", "policy"}


@pytest.mark.parametrize(("command", "output"), shown_runs())
def test_what_a_page_shows_on_the_command_line_is_what_is_printed(command, output):
    arguments, _, tail = command.partition(" | tail -n ")
    ran = subprocess.run(
        [sys.executable, "-m", *shlex.split(arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = ran.stdout.splitlines()

    assert "\n".join(lines[-int(tail) :] if tail else lines).strip() == output


@pytest.mark.parametrize("document", [*PAGES, *ROOT.glob("*.md")], ids=name_of)
def test_every_test_that_a_document_names_is_there(document):
    text = document.read_text(encoding="utf-8")
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}

    assert sorted(set(re.findall(r"\btest_\w+\.py\b", text)) - set(files)) == []
    for path, name in re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", text):
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), f"{path}::{name}"


def is_there(name: str) -> bool:
    """Tell whether a module of the package has this dotted name, or an object in it, or one in an object."""
    for end in range(name.count(".") + 1, 0, -1):
        module, attributes = name.split(".")[:end], name.split(".")[end:]
        with suppress(ModuleNotFoundError):
            thing = import_module(".".join(["taskfold", *module]))
            return all((thing := getattr(thing, attribute, None)) is not None for attribute in attributes)
    return False


@pytest.mark.parametrize("document", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_module_that_a_document_names_is_there(document):
    text = document.read_text(encoding="utf-8")
    package = ROOT / "engine" / "taskfold"
    roots = (ROOT, package, ROOT / "tests")
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    dotted = {name.removeprefix("taskfold.") for name in re.findall(r"`((?:taskfold\.)?[a-z_]+(?:\.\w+)+)`", text)}
    paths = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text))

    assert {name for name in dotted if name.partition(".")[0] in folders and not is_there(name)} == set()
    assert {path for path in paths if not any((root / path).exists() for root in roots)} == set()


@pytest.mark.parametrize("name", ["http.lists", "fold.task.apply_nothing", "decision.rules.decide.nothing"])
def test_a_module_that_is_not_there_is_seen(name):
    assert not is_there(name)


@pytest.mark.parametrize("document", [*PAGES, *ROOT.glob("*.md")], ids=name_of)
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        page = document.parent / path if path else document
        assert page.exists(), target
        # A picture for light or dark pages only has a mark that is no heading.
        assert not anchor or page.suffix != ".md" or anchor in anchors(page), target


def test_every_file_that_readme_names_is_in_the_source_distribution_and_nothing_is_a_link_to_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = [name.strip("/") for name in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    names = set(re.findall(r"`([\w/.-]+(?:\.md|/))`", README))

    assert "docs/index.md" in names
    assert {name for name in names if not (ROOT / name).exists()} == set()
    assert {
        name for name in names if not any(Path(name).match(f) or name.startswith(f"{f}/") for f in folders)
    } == set()
    # The package index shows this page, and has none of the files: a link from it would lead nowhere.
    assert re.findall(r"\]\((?!https?://)[^)]*\)", README) == []


def test_readme_and_the_map_are_read_in_one_sitting():
    assert 120 <= README.count("\n") <= 150
    assert ARCHITECTURE.count("\n") <= 130


def test_every_file_that_the_map_names_is_there():
    package = ROOT / "engine" / "taskfold"
    names = set(re.findall(r"`((?:\w+/)*\w+\.py)`", ARCHITECTURE))

    assert names
    assert {name for name in names if not any(path.match(name) for path in package.rglob("*.py"))} == set()


def test_a_decision_is_told_with_its_context_options_choice_and_price():
    index = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    for number, name in enumerate(sorted(RECORDS), 1):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert re.findall(r"^#+ (.+)$", text, re.MULTILINE)[1:] == ["Context", "Options", "Choice", "Price"]
        assert text.startswith(f"# {number}. ")
        assert re.search(r"^Date: \d{4}-\d\d-\d\d\. Status: ", text, re.MULTILINE)
        assert f"({name.removeprefix('decisions/')})" in index


def test_the_site_has_every_page():
    listed = set(re.findall(r"[:-] ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))

    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


RECORDING = (ROOT / "docs" / "recording.md").read_text(encoding="utf-8")


def test_the_metrics_of_the_guide_to_recording_are_those_of_a_recorder():
    recorder = Recorder(Engine(), AgentSettings())

    assert set(re.findall(r"`taskfold_(source_\w+)`", RECORDING)) == {name for name, _, _ in recorder.numbers()}


def test_the_unit_and_the_job_of_the_guide_to_recording_call_the_command_as_it_is():
    unit = configparser.ConfigParser(strict=False)
    unit.read_string(re.search(r"```ini\n(.*?)```", RECORDING, re.DOTALL)[1])
    _, *arguments = shlex.split(unit["Service"]["ExecStart"])
    job = re.search(r"```hcl\n(.*?)```", RECORDING, re.DOTALL)[1]
    job_arguments = re.findall(r'"([^"]*)"', re.search(r"args\s*=\s*\[(.*?)\]", job, re.DOTALL)[1])

    for command, *rest in (arguments, job_arguments):
        assert command == "follow"
        context = follow.make_context("follow", rest)
        assert context.params["log"].endswith("cluster.db")
        assert context.params["bind"]


def test_the_numbers_of_the_guide_to_recording_are_those_of_the_code():
    backoff = Backoff(Random(1))
    words = " ".join(RECORDING.split())

    assert f"for {recorder._READS_AT_ONCE} allocations at a time at most, over {agents._MOST_CONNECTIONS} conn" in words
    assert f"after {backoff._first_seconds} seconds" in words
    assert f"up to {backoff._most_seconds:.0f} seconds" in words
    assert f"every {recorder.COMPARE_SECONDS / 60:.0f} minutes" in words


def test_every_variable_of_nomad_that_the_guide_names_is_read():
    named = set(re.findall(r"`(NOMAD_[A-Z_]+)`", RECORDING))
    read = set(re.findall(r'"(NOMAD_[A-Z_]+)"', inspect.getsource(AgentSettings)))

    assert named == read


def test_the_drawing_of_the_page_about_looking_is_drawn_today(monkeypatch):
    monkeypatch.chdir(ROOT)

    assert pictures.DRAWING.read_text(encoding="utf-8") == pictures.drawing()


def test_each_picture_of_a_page_is_there_and_is_shown():
    shown = set()
    for page in PAGES:
        names = re.findall(r"!\[[^\]]+\]\(([^)#]+)|(?:src|srcset)=\"([^\"]+)\"", page.read_text("utf-8"))
        shown |= {(page.parent / (one or other)).resolve() for one, other in names}

    assert shown == set(pictures.FOLDER.iterdir())
    assert shown == {pictures.DRAWING, *(pictures.FOLDER / name for name, *_ in pictures.SHOTS)}
