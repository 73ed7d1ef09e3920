"""The odd requests that two Nomads were sent, by version and name, and tests that are about some of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.recordings import VERSIONS, edges

EDGES = {(version, edge.name): edge for version in VERSIONS for edge in edges(version)}


def params(chosen: Iterator[tuple[str, str]]) -> pytest.MarkDecorator:
    """Return a parametrization over recorded edges, each named by its version and its name."""
    keys = list(chosen)
    assert keys, "no recorded edge is about this"
    return pytest.mark.parametrize("edge", [pytest.param(EDGES[key], id="/".join(key)) for key in keys])
