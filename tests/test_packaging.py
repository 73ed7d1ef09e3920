"""What a user gets: one package in the wheel, three requirements, and an import that pulls in no extra."""

from __future__ import annotations

import ast
import email.parser
import importlib.metadata
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import taskfold
from tools.face import PACKAGE, STUBS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

ROOT = Path(__file__).parent.parent

# What only an extra brings, and what of the standard library is too heavy for every user.
NOT_IMPORTED = ("click", "rich", "hypothesis", "psycopg", "pytest", "pyarrow", "numpy", "ssl", "http.server")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation the build needs no network: hatchling is among the development requirements.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def dist_info_text(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode("utf-8")


def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.parser.Parser().parsestr(dist_info_text(wheel, "METADATA"))


def test_the_wheel_installs_taskfold_and_nothing_generic(wheel: zipfile.ZipFile) -> None:
    version = metadata(wheel)["Version"]
    top_level = {name.partition("/")[0] for name in wheel.namelist()}
    assert top_level == {"taskfold", f"taskfold-{version}.dist-info"}


def test_the_wheel_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    assert "taskfold/py.typed" in wheel.namelist()


def test_every_module_and_every_schema_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT / "engine")) for path in (ROOT / "engine" / "taskfold").rglob("*.py")}
    schemas = {f"taskfold/schemas/{path.name}" for path in (ROOT / "schemas").glob("*.json")}
    assert modules
    assert schemas
    assert modules | schemas <= set(wheel.namelist())


def test_what_a_page_is_made_of_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "engine" / "taskfold" / "pictures" / "assets"
    for path in folder.iterdir():
        assert wheel.read(f"taskfold/pictures/assets/{path.name}") == path.read_bytes()


def test_a_shipped_schema_is_the_one_in_the_repository(wheel: zipfile.ZipFile) -> None:
    for path in (ROOT / "schemas").glob("*.json"):
        assert wheel.read(f"taskfold/schemas/{path.name}") == path.read_bytes()


def test_the_examples_of_the_demo_are_in_the_wheel_as_they_are_in_the_repository(wheel: zipfile.ZipFile) -> None:
    for path in (ROOT / "examples").iterdir():
        assert wheel.read(f"taskfold/examples/{path.name}") == path.read_bytes()


def test_without_extras_three_distributions_are_required(wheel: zipfile.ZipFile) -> None:
    required = [text for text in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in text]
    assert sorted(required) == ["msgspec>=0.19", "sortedcontainers>=2.4", "transitions>=0.9.2"]


def test_no_address_is_claimed_which_nobody_has(wheel: zipfile.ZipFile) -> None:
    assert metadata(wheel).get_all("Project-URL", []) == []
    assert "https://" not in str(metadata(wheel).get_payload())


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    lines = dist_info_text(wheel, "entry_points.txt").splitlines()
    assert lines[lines.index("[console_scripts]") + 1] == "taskfold = taskfold.cli:main"


def imported_by(statement: str) -> set[str]:
    """Return the names of the modules that a statement imports in a process of its own."""
    # The site's .pth files may import what they like before the statement runs; that is not its doing.
    program = (
        f"import json, sys; before = set(sys.modules); {statement}; print(json.dumps([*set(sys.modules) - before]))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


def test_import_taskfold_imports_no_extra() -> None:
    imported = imported_by("import taskfold")
    assert "taskfold" in imported
    assert imported.isdisjoint(NOT_IMPORTED), sorted(imported.intersection(NOT_IMPORTED))


def test_import_taskfold_imports_no_other_module_of_it_and_no_library() -> None:
    imported = {
        name for name in imported_by("import taskfold") if name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert imported == {"taskfold"}


def test_a_name_is_imported_when_it_is_used_and_the_machine_library_when_a_machine_is_built() -> None:
    assert "taskfold.nomad.snapshot" in imported_by("import taskfold; taskfold.Snapshot")
    assert "transitions" not in imported_by("import taskfold; taskfold.Engine, taskfold.replay, taskfold.Binding")
    assert "transitions" in imported_by("import taskfold; taskfold.lifecycle_of('1.1.2')")


def test_type_checkers_see_the_names_that_the_package_resolves() -> None:
    for name, make in STUBS.items():
        assert (PACKAGE / name).read_text(encoding="utf-8") == make(), f"make schemas writes {name} anew"


@pytest.mark.parametrize("name", sorted(set(dir(taskfold)) - {"__annotations__"}))
def test_every_name_that_is_listed_is_there(name: str) -> None:
    assert getattr(taskfold, name) is getattr(taskfold, name)


@pytest.mark.parametrize("name", ["http", "log", "nomad", "testing"])
def test_a_package_resolves_the_names_that_type_checkers_see_in_it(name: str) -> None:
    package = importlib.import_module(f"taskfold.{name}")
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    [for_types] = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    homes = {
        alias.name: str(node.module)
        for node in for_types.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert sorted(homes) == sorted(package.__all__)
    for public, home in homes.items():
        assert getattr(package, public) is getattr(importlib.import_module(home), public)
    with pytest.raises(AttributeError, match=f"module 'taskfold.{name}' has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize(
    ("name", "public_modules"),
    [
        ("taskfold", {"effects", "errors", "events", "inputs"}),
        ("taskfold.http", set()),
        ("taskfold.log", set()),
        ("taskfold.nomad", {"views"}),
        ("taskfold.testing", {"strategies"}),
    ],
)
def test_no_other_public_name_is_that_of_a_module_which_would_take_its_place(
    name: str, public_modules: set[str]
) -> None:
    package = importlib.import_module(name)
    modules = {path.stem for path in Path(str(package.__file__)).parent.iterdir()}

    assert modules.intersection(package.__all__) == public_modules


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'taskfold' has no attribute 'nothing'"):
        _ = taskfold.nothing


def test_the_version_is_the_one_that_is_installed() -> None:
    assert taskfold.__version__ == importlib.metadata.version("taskfold")


def test_what_a_statement_imports_is_seen() -> None:
    assert "http.server" in imported_by("import http.server")
