"""Query strings are read as Go reads them."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.edge_cases import EDGES, params
from support.recordings import Edge
from taskfold.http.query import go_bool, is_pretty, parse_query, parse_signed_error, parse_unsigned
from taskfold.model.go.durations import parse_duration_ns


def raw_query_of(edge: Edge) -> bytes:
    return edge.request.partition("?")[2].encode()


@pytest.mark.parametrize(
    ("raw", "name", "values"),
    [
        (b"a=1", "a", ["1"]),
        (b"a=1&a=2", "a", ["1", "2"]),
        (b"a", "a", [""]),
        (b"a=", "a", [""]),
        (b"a=b=c", "a", ["b=c"]),
        (b"=x", "", ["x"]),
        (b"&&a=1&", "a", ["1"]),
        (b"&&a=1&", "", []),
        (b"a=1+2%2B3", "a", ["1 2+3"]),
        (b"%61+b=1", "a b", ["1"]),
        (b"a=%C3%A9", "a", ["é"]),
        (b"a=\xc3\xa9", "a", ["é"]),
        (b"a=%26%3D%3B", "a", ["&=;"]),
        # What is wrong costs its own pair only.
        (b"a=1;b=2&a=3", "a", ["3"]),
        (b"a=1;b=2&a=3", "b", []),
        (b"a=%zz&a=2", "a", ["2"]),
        (b"a=%4&a=2", "a", ["2"]),
        (b"a=%&a=2", "a", ["2"]),
        (b"%zz=1&a=2", "%zz", []),
    ],
)
def test_a_query_is_read_as_go_reads_it(raw, name, values):
    query = parse_query(raw)

    assert query.all(name) == values
    assert query.has(name) == bool(values)
    assert query.get(name) == (values[0] if values else "")


def test_every_empty_query_is_the_same_object():
    assert parse_query(b"") is parse_query(b"")
    assert not parse_query(b"")


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=6))
@example([(b"\xff\xc3", b"\xed\xa0\x80")])
def test_every_byte_of_a_query_comes_out_again(pairs):
    query = parse_query(urlencode(pairs).encode())

    for name, _ in pairs:
        values = query.all(name.decode(errors="surrogateescape"))
        encoded = [value.encode(errors="surrogateescape") for value in values]
        assert encoded == [value for other, value in pairs if other == name]


@given(st.binary() | st.text("ab=&;%+12zF").map(str.encode))
def test_no_query_is_an_error(raw):
    query = parse_query(raw)

    assert all(query.has(name) for name in ("a", "b") if query.get(name))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"pretty", True),
        (b"pretty=", True),
        (b"pretty=1", True),
        (b"pretty=false", True),
        (b"pretty=00", True),
        (b"pretty=0", False),
        (b"pretty=0&pretty=1", False),
        (b"pretty=1&pretty=0", True),
        (b"", False),
        (b"index=1;pretty", False),
        (b"Pretty", False),
    ],
)
def test_pretty_is_asked_for_by_its_key_unless_it_is_0(raw, expected):
    assert is_pretty(parse_query(raw)) is expected


@params(key for key, edge in EDGES.items() if edge.status == 200 and (edge.body or "").startswith(('{"', "{\n", "[{")))
def test_a_recorded_answer_is_indented_when_the_rule_says_so(edge):
    assert is_pretty(parse_query(raw_query_of(edge))) == ("\n    " in edge.body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("1", "t", "T", "TRUE", "true", "True")),
        *((text, False) for text in ("0", "f", "F", "FALSE", "false", "False")),
        *((text, None) for text in ("", "yes", "tRUE", "on", " true", "garbage")),
    ],
)
def test_booleans_have_the_twelve_spellings_of_go(text, expected):
    assert go_bool(text) is expected


@params(key for key in EDGES if key[1].startswith("index_") and EDGES[key].status is not None)
def test_a_recorded_index_is_invalid_when_the_rule_says_so(edge):
    text = parse_query(raw_query_of(edge)).get("index")

    assert (text != "" and parse_unsigned(text) is None) == (edge.body == "Invalid index")


@params(key for key in EDGES if "wait" in key[1] and EDGES[key].status is not None)
def test_a_recorded_wait_is_invalid_when_the_rule_says_so(edge):
    text = parse_query(raw_query_of(edge)).get("wait")

    def fails() -> bool:
        try:
            parse_duration_ns(text)
        except ValueError:
            return True
        return False

    assert (text != "" and fails()) == (edge.body == "Invalid wait time")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("007", 7),
        ("18446744073709551615", 2**64 - 1),
        ("0" * 5_000 + "9", 9),
        ("18446744073709551616", None),
        ("9" * 5_000, None),
        ("", None),
        ("+1", None),
        ("-1", None),
        ("1_0", None),
        (" 1", None),
        ("1\n", None),
        ("1.5", None),
        ("0x1", None),
        ("٣", None),
        ("²", None),
    ],
)
def test_unsigned_numbers_are_ascii_digits_of_64_bits(text, expected):
    assert parse_unsigned(text) == expected


SYNTAX = "invalid syntax"
RANGE = "value out of range"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("+7", 7),
        ("-007", -7),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0" * 5_000 + "9", 9),
    ],
)
def test_signed_numbers_have_a_sign_at_most(text, expected):
    assert parse_signed_error(text) == expected


@pytest.mark.parametrize(
    ("text", "quoted", "reason"),
    [
        ("", '""', SYNTAX),
        ("+", '"+"', SYNTAX),
        ("--1", '"--1"', SYNTAX),
        ("1_0", '"1_0"', SYNTAX),
        ("1.5", '"1.5"', SYNTAX),
        ("1\n", r'"1\n"', SYNTAX),
        ('a"b', r'"a\"b"', SYNTAX),
        ("é\x7f", r'"é\x7f"', SYNTAX),
        ("٣", '"٣"', SYNTAX),
        ("18446744073709551615x", '"18446744073709551615x"', SYNTAX),
        ("9223372036854775808", '"9223372036854775808"', RANGE),
        ("-9223372036854775809", '"-9223372036854775809"', RANGE),
        ("18446744073709551616", '"18446744073709551616"', RANGE),
        # Go meets the digit that is too many before the letter.
        ("18446744073709551616x", '"18446744073709551616x"', RANGE),
    ],
)
def test_what_is_no_signed_number_gets_the_error_of_go(text, quoted, reason):
    assert parse_signed_error(text) == f"strconv.Atoi: parsing {quoted}: {reason}"


@given(st.integers(-(2**64), 2**65))
def test_numbers_are_read_within_their_limits(number):
    assert parse_unsigned(str(number)) == (number if 0 <= number < 2**64 else None)
    assert (parse_signed_error(str(number)) == number) == (-(2**63) <= number < 2**63)


def test_the_recorded_error_of_an_index_of_the_stream():
    edge = EDGES["1.1.2", "stream_bad_index"]

    error = parse_signed_error(parse_query(raw_query_of(edge)).get("index"))

    assert edge.body == f"Unable to parse index: {error}"
