"""Zstandard: Python's own module, which it has since 3.14, or its backport."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdFile
else:
    from backports.zstd import ZstdFile

__all__ = ["ZstdFile"]
