"""What a real Nomad sent, as it comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["STREAM", "examples"]


def examples() -> Path:
    """Return the folder of the files: in an installed package within it, in a checkout at its top."""
    package = Path(__file__).parents[1]
    folders = package / "examples", package.parents[1] / "examples"
    return next(folder for folder in folders if folder.is_dir())


STREAM: Final = examples() / "nomad-1.1.2-stream.ndjson.gz"
"""The event stream of a Nomad 1.1.2: cut off while some jobs ran, with two gaps in one allocation."""
