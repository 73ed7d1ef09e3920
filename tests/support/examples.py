"""The recorded stream that is committed as an example."""

from __future__ import annotations

import gzip
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "nomad-1.1.2-stream.ndjson.gz"


LINES = gzip.decompress(EXAMPLE.read_bytes()).splitlines(keepends=True)
