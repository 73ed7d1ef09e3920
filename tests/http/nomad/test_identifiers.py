"""IDs of allocations, whole and in part."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.edge_cases import EDGES, params
from support.recordings import Edge
from taskfold.http.nomad.identifiers import LOOKUP_FAILED, InvalidIdentifier, canonical, uuid_key
from taskfold.http.query import parse_query

ID = "203266e5-e0d6-9486-56e5-397ed2b184af"
ALLOCATION = "/v1/allocation/"


def path_of(edge: Edge) -> str:
    return unquote(edge.request.partition(" ")[2].partition("?")[0])


def raw_query_of(edge: Edge) -> bytes:
    return edge.request.partition("?")[2].encode()


def identifier_of(edge: Edge) -> tuple[str, bool]:
    """Return the ID of a request, or the prefix, and whether it must be a whole one."""
    if path_of(edge).startswith(ALLOCATION):
        text = path_of(edge).removeprefix(ALLOCATION)
        return (text.removesuffix("/stop") if edge.request.startswith("PUT") else text), True
    return parse_query(raw_query_of(edge)).get("prefix"), False


@params(key for key, edge in EDGES.items() if (edge.body or "").startswith(LOOKUP_FAILED))
def test_a_recorded_id_that_is_wrong_gets_the_recorded_reason(edge):
    text, exact = identifier_of(edge)

    with pytest.raises(InvalidIdentifier) as caught:
        uuid_key(text, exact=exact)

    assert f"{LOOKUP_FAILED}{caught.value}" == edge.body


@params(
    key
    for key, edge in EDGES.items()
    if (edge.status == 200 and edge.request.startswith(f"GET {ALLOCATION}")) or edge.body == "alloc not found"
)
def test_a_recorded_id_that_was_looked_up_is_valid(edge):
    text, exact = identifier_of(edge)

    assert canonical(uuid_key(text, exact=exact)) == text


EVEN = "Input (without hyphens) must be even length"


def not_hex(shown: str) -> str:
    return f"Invalid UUID: encoding/hex: invalid byte: {shown}"


@pytest.mark.parametrize(
    ("text", "exact", "reason"),
    [
        ("", True, "UUID must be 36 characters"),
        (ID + "0", True, "UUID must be 36 characters"),
        ("é" * 19, True, "UUID must be 36 characters"),
        ("-" * 36, True, 'UUID should have maximum of 4 "-"; got 36'),
        ("é" * 18, True, not_hex("U+00C3 'Ã'")),
        ("z" * 35 + "-", True, EVEN),
        (ID + "0", False, "Invalid UUID length. UUID have 36 characters; got 37"),
        ("-" * 37, False, "Invalid UUID length. UUID have 36 characters; got 37"),
        ("é" * 19, False, "Invalid UUID length. UUID have 36 characters; got 38"),
        ("-----z", False, 'UUID should have maximum of 4 "-"; got 5'),
        ("z", False, EVEN),
        ("zz", False, not_hex("U+007A 'z'")),
        ("0g", False, not_hex("U+0067 'g'")),
        ("0 ", False, not_hex("U+0020 ' '")),
        ("0'", False, not_hex("U+0027 '''")),
        ("0\n", False, not_hex("U+000A")),
        ("0\x7f", False, not_hex("U+007F")),
        ("0\udcff", False, not_hex("U+00FF 'ÿ'")),
        ("\u00a0", False, not_hex("U+00C2 'Â'")),
        ("0\udca0", False, not_hex("U+00A0")),
        ("0\udcad", False, not_hex("U+00AD")),
    ],
)
def test_the_first_thing_wrong_with_an_id_is_told(text, exact, reason):
    with pytest.raises(InvalidIdentifier) as caught:
        uuid_key(text, exact=exact)

    assert str(caught.value) == reason


@pytest.mark.parametrize("text", [ID.upper(), "2032-66e5e0d6-9486-56e5397ed2b184-af", "----" + ID.replace("-", "")])
def test_neither_case_nor_the_places_of_hyphens_count(text):
    assert uuid_key(text) == uuid_key(ID)


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("-", ""), ("20-", "20"), ("203266E5-", "203266e5")])
def test_a_prefix_has_hyphens_only_before_what_follows_them(text, expected):
    assert canonical(uuid_key(text, exact=False)) == expected


@given(st.binary(min_size=16, max_size=16), st.integers(0, 16))
def test_an_id_begins_with_the_text_of_every_prefix_of_its_key(key, length):
    text = canonical(key)

    assert uuid_key(text) == key
    assert text.startswith(canonical(key[:length]))
    assert uuid_key(canonical(key[:length]), exact=False) == key[:length]
