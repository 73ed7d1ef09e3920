"""The modules that ``make mutants`` changes, each with the tests that have to notice."""

from __future__ import annotations

from typing import Final

__all__ = ["AREAS", "FOLDERS", "NAMED_ONLY"]

_DECISION: Final = (
    "tests/stories",
    "tests/decision/test_deciding_page.py",
    "tests/decision/test_decide.py",
    "tests/decision/test_decision.py",
    "tests/decision/test_group.py",
    "tests/decision/test_decides_like_nomad.py",
    "tests/live/test_reports.py",
)
_IMPORTING: Final = (
    "tests/nomad/importing/test_observation.py",
    "tests/nomad/importing/test_importer.py",
    "tests/nomad/importing/test_importer_histories.py",
    "tests/nomad/importing/test_job_finder.py",
)
AREAS: Final[dict[str, tuple[str, ...]]] = {
    "fold/lifecycle.py": (
        "tests/fold/test_diagram.py",
        "tests/fold/test_lifecycle.py",
        "tests/fold/test_binding.py",
        "tests/fold/test_task_state.py",
    ),
    "fold/task.py": (
        "tests/fold/test_task_state.py",
        "tests/fold/test_lifecycle.py",
        "tests/decision/test_decision.py",
    ),
    "decision/restart.py": ("tests/decision/test_restart_policy.py", "tests/stories"),
    "decision/group.py": ("tests/decision/test_group.py", "tests/stories", "tests/decision/test_decide.py"),
    "decision/decision.py": _DECISION,
    "decision/nomad_0_5.py": _DECISION,
    "decision/nomad_0_9.py": _DECISION,
    "decision/rules.py": _DECISION,
    "nomad/importing/client_state.py": ("tests/nomad/importing/test_client_state.py",),
    "nomad/importing/facts.py": ("tests/nomad/importing/test_facts.py",),
    "nomad/importing/field_cache.py": ("tests/nomad/importing/test_caches.py",),
    "nomad/importing/importer.py": _IMPORTING,
    "nomad/importing/job_finder.py": _IMPORTING,
    "nomad/importing/memory.py": _IMPORTING,
    "nomad/importing/observation.py": _IMPORTING,
    "nomad/importing/repeats.py": ("tests/nomad/importing/test_caches.py",),
    "nomad/importing/rings.py": ("tests/nomad/importing/test_rings.py",),
    "nomad/importing/writes.py": ("tests/nomad/importing/test_writes.py",),
}
"""The tests of each module, those first that notice most; the doctests of the module itself come after them."""

NAMED_ONLY: Final = frozenset(
    f"nomad/importing/{name}.py" for name in ("importer", "job_finder", "memory", "observation")
)
"""The modules that are changed only where they are named: not all their survivors are listed yet."""

FOLDERS: Final = ("decision", "nomad/importing")
"""The folders of which every module is changed."""
