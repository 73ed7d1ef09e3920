"""What `taskfold.nomad` offers: each of its names is there, and imported when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from taskfold import nomad


@pytest.mark.parametrize("name", nomad.__all__)
def test_every_name_that_is_promised_is_there_and_listed(name):
    assert getattr(nomad, name) is getattr(nomad, name)
    assert name in dir(nomad)


def test_every_name_but_views_has_a_module():
    assert {*nomad._HOME, "views"} == set(nomad.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'taskfold\.nomad' has no attribute 'nothing'"):
        _ = nomad.nothing


def test_importing_the_package_imports_no_view():
    program = "import sys, taskfold.nomad; print([name for name in sys.modules if name.startswith('taskfold.nomad.')])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
