"""Files in the package beside its modules: schemas, and recorded examples."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["EXAMPLE_JOB", "EXAMPLE_STREAM", "shipped"]

EXAMPLE_STREAM: Final = "nomad-1.1.2-stream.ndjson.gz"
"""The event stream of a Nomad 1.1.2, cut off while jobs ran; its agent lost two stretches of one allocation."""
EXAMPLE_JOB: Final = "job.json"


def shipped(folder: str) -> Path:
    """Return a data folder: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    within = package / folder
    return within if within.is_dir() else package.parents[1] / folder
