"""The pure rules of the HTTP face: query strings, IDs, compression and the stream's topics."""

from __future__ import annotations

import gzip
import zlib
from urllib.parse import unquote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.edge_cases import EDGES, params
from support.recordings import Edge, vector
from taskfold.http.nomad.identifiers import LOOKUP_FAILED, InvalidIdentifier, canonical, uuid_key
from taskfold.http.nomad.topics import TopicError, Topics, parse_topics
from taskfold.http.query import go_bool, is_pretty, parse_query, parse_signed_error, parse_unsigned
from taskfold.http.serve.compression import accepts_gzip, gzip_body
from taskfold.model.go.durations import parse_duration_ns

ID = "203266e5-e0d6-9486-56e5-397ed2b184af"
ALLOCATION = "/v1/allocation/"


def path_of(edge: Edge) -> str:
    return unquote(edge.request.partition(" ")[2].partition("?")[0])


def raw_query_of(edge: Edge) -> bytes:
    return edge.request.partition("?")[2].encode()


# --- query strings ----------------------------------------------------------------------------------------------------


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


# --- IDs --------------------------------------------------------------------------------------------------------------


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


# --- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"gzip", True),
        (b"GZip", True),
        (b"gzip, deflate, br", True),
        (b"deflate,gzip", True),
        (b" gzip ;q=0.5", True),
        (b"br;q=1.0, gzip; q=0.001", True),
        (b"gzip;q=1;x=y", True),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000, *", False),
        (b"gzip;q=-1", False),
        (b"gzip;q=nan", False),
        (b"gzip;q=", False),
        (b"gzip;q=much", False),
        (b"*", False),
        (b"*;q=1", False),
        (b"identity", False),
        (b"x-gzip", False),
        (b"gzipped", False),
        (b"", False),
        (b",;,", False),
        (b"\xff", False),
    ],
)
def test_gzip_is_taken_by_its_name_and_a_weight(value, expected):
    assert accepts_gzip(value) is expected


def test_what_is_compressed_can_be_read_piece_by_piece_to_its_end():
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)

    text = b"".join(unpacker.decompress(bytes([byte])) for byte in gzip_body(b"alloc not found"))

    assert (text, unpacker.eof, unpacker.unused_data) == (b"alloc not found", True, b"")


@given(st.binary(max_size=20_000))
def test_a_long_body_is_compressed(data):
    assert gzip.decompress(gzip_body(data)) == data


def test_a_recorded_body_becomes_a_quarter_of_its_size():
    body = (EDGES["1.1.2", "list_resources_true"].body or "").encode()

    assert len(gzip_body(body)) < len(body) / 4


# --- topics of the stream ---------------------------------------------------------------------------------------------

STREAM = vector("event_stream")


def topics_of(case: dict) -> Topics:
    return parse_topics([f"{topic}:{key}" for topic, keys in case["topics"].items() for key in keys])


def matched(case: dict) -> list[int]:
    """Return which events of a case are wanted; the namespace is no matter of topics."""
    topics = topics_of(case)
    return [
        place
        for place, event in enumerate(case["events"])
        if topics.matches(event["Topic"], event["Key"], event["FilterKeys"])
        and event["Namespace"] in (case.get("namespaces") or [event["Namespace"]])
    ]


@pytest.mark.parametrize("case", STREAM["filter_cases"], ids=lambda case: case["name"])
def test_the_conformance_cases_of_filters(case):
    assert matched(case) == case["expected_indexes"]


@pytest.mark.parametrize("case", STREAM["filter_quirks"], ids=lambda case: case["name"])
def test_the_defects_of_filters_are_not_copied(case):
    assert matched(case) == case["sane_indexes"]
    assert topics_of(case).wants_allocations == bool(case["sane_indexes"])


@pytest.mark.parametrize("case", STREAM["query_parse"], ids=lambda case: case["query"])
def test_the_conformance_cases_of_the_topic_parameter(case):
    query = parse_query(case["query"].removeprefix("?").encode())

    assert parse_topics(query.all("topic")).keys == {topic: set(keys) for topic, keys in case["topics"].items()}


@pytest.mark.parametrize("value", ["a:b:c", "::", "Allocation:x:", ":::é"])
def test_a_topic_has_one_colon_at_most(value):
    with pytest.raises(TopicError) as caught:
        parse_topics(["Allocation", value])

    assert str(caught.value) == (
        f"Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: {value}"
    )


@params(key for key in EDGES if key[0] == "1.1.2" and key[1] in {"stream_bad_topic", "stream_colon"})
def test_a_recorded_topic_that_nobody_knows_is_taken_and_matches_nothing(edge):
    topics = parse_topics(parse_query(raw_query_of(edge)).all("topic"))

    assert edge.status == 200
    assert not topics.wants_allocations
    assert not topics.matches("Allocation", ID, ["job", ""])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], True),
        (["*"], True),
        (["*:job"], True),
        (["Allocation"], True),
        (["Job", "Allocation:job"], True),
        (["Job"], False),
        (["allocation"], False),
        (["Allocation:"], False),
        ([""], False),
    ],
)
def test_whether_allocations_can_be_wanted_is_known_beforehand(values, expected):
    assert parse_topics(values).wants_allocations is expected


topic_values = st.lists(st.tuples(st.sampled_from(["*", "Allocation", "Job"]), st.sampled_from(["*", "", "a", "b"])))


@given(topic_values, st.sampled_from(["Allocation", "Job"]), st.sampled_from("abc"), st.sampled_from(["", "a", "b"]))
def test_an_event_is_wanted_if_any_pair_wants_it(pairs, topic, key, filter_key):
    topics = parse_topics([f"{wanted}:{name}" for wanted, name in pairs])

    wanted = not pairs or any(
        name in {"*", key, filter_key} - {""} for wanted_topic, name in pairs if wanted_topic in {"*", topic}
    )

    assert topics.matches(topic, key, [filter_key]) == wanted
    assert topics.wants_allocations or topic != "Allocation" or not wanted
