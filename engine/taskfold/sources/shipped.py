"""What comes with the package beside its modules: schemas, and the recorded examples."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["EXAMPLE_JOB", "EXAMPLE_STREAM", "shipped"]

EXAMPLE_STREAM: Final = "nomad-1.1.2-stream.ndjson.gz"
"""The event stream of a Nomad 1.1.2, cut off while some jobs ran; its agent lost two stretches of one allocation."""
EXAMPLE_JOB: Final = "job.json"


def shipped(folder: str) -> Path:
    """Return a folder that comes with the package: in an installed one within it, in a checkout at its top."""
    package = Path(__file__).parents[1]
    within = package / folder
    return within if within.is_dir() else package.parents[1] / folder
