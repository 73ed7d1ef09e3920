"""What Go says of a body that is no JSON, to the letter."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.edge_cases import EDGES, params
from taskfold.http.go_json import json_error


@params(
    key
    for key, edge in EDGES.items()
    if (edge.body or "") == "EOF" or (edge.body or "").startswith("invalid character")
)
def test_a_recorded_body_that_is_no_json_gets_the_recorded_error(edge):
    assert json_error((edge.request_body or "").encode()) == edge.body


VALUE = "looking for beginning of value"
KEY = "looking for beginning of object key string"
NUMBER = "in numeric literal"
POINT = "after decimal point in numeric literal"
EXPONENT = "in exponent of numeric literal"
HEXADECIMAL = r"in \u hexadecimal character escape"


@pytest.mark.parametrize(
    ("body", "quoted", "where"),
    [
        (b"x", "'x'", VALUE),
        (b" \t\r\n}", "'}'", VALUE),
        (b"[1,]", "']'", VALUE),
        (b"[,1]", "','", VALUE),
        (b"[}", "'}'", VALUE),
        (b'{"a":}', "'}'", VALUE),
        (b'{"a"::1}', "':'", VALUE),
        (b"+1", "'+'", VALUE),
        (b".5", "'.'", VALUE),
        (b"NaN", "'N'", VALUE),
        (b"Infinity", "'I'", VALUE),
        (b"{bad", "'b'", KEY),
        (b"{1:2}", "'1'", KEY),
        (b"{1.:2}", "'1'", KEY),
        (b"{]", "']'", KEY),
        (b"{,", "','", KEY),
        (b'{"a":1,}', "'}'", KEY),
        (b"{'a':1}", r"'\''", KEY),
        (b'{"a" 1}', "'1'", "after object key"),
        (b'{"a"}', "'}'", "after object key"),
        (b'{"a":1 "b"}', "'\"'", "after object key:value pair"),
        (b'{"a":1]', "']'", "after object key:value pair"),
        (b'{"a":{}:', "':'", "after object key:value pair"),
        (b"[1 2]", "'2'", "after array element"),
        (b"[1}", "'}'", "after array element"),
        (b"[01]", "'1'", "after array element"),
        (b"[1.5.2]", "'.'", "after array element"),
        (b"[truex]", "'x'", "after array element"),
        (b'["a\nb"]', r"'\n'", "in string literal"),
        (b'"\x00"', r"'\x00'", "in string literal"),
        (b'"\x1f"', r"'\x1f'", "in string literal"),
        (b'{"\t":1}', r"'\t'", "in string literal"),
        (rb'"\x"', "'x'", "in string escape code"),
        (b'"\\\n"', r"'\n'", "in string escape code"),
        (rb'"\u12g4"', "'g'", HEXADECIMAL),
        (rb'"\u"', "'\"'", HEXADECIMAL),
        (rb'"\u123g"', "'g'", HEXADECIMAL),
        (b"-a", "'a'", NUMBER),
        (b"[-]", "']'", NUMBER),
        (b"[--1]", "'-'", NUMBER),
        (b"1.a", "'a'", POINT),
        (b"[1.]", "']'", POINT),
        (b"[1.e5]", "'e'", POINT),
        (b"1ex", "'x'", EXPONENT),
        (b"[1E]", "']'", EXPONENT),
        (b"1e+-1", "'-'", EXPONENT),
        (b"0.5e-x", "'x'", EXPONENT),
        (b"txue", "'x'", "in literal true (expecting 'r')"),
        (b"trxe", "'x'", "in literal true (expecting 'u')"),
        (b"tru ", "' '", "in literal true (expecting 'e')"),
        (b"fxlse", "'x'", "in literal false (expecting 'a')"),
        (b"faxse", "'x'", "in literal false (expecting 'l')"),
        (b"falxe", "'x'", "in literal false (expecting 's')"),
        (b"falsx", "'x'", "in literal false (expecting 'e')"),
        (b"nxll", "'x'", "in literal null (expecting 'u')"),
        (b"nuxl", "'x'", "in literal null (expecting 'l')"),
        (b"nulx", "'x'", "in literal null (expecting 'l')"),
        # A character is a byte, even where it is a part of one only.
        (b"\xef\xbb\xbf{}", "'ï'", VALUE),
        (b"\xc2\xa0", "'Â'", VALUE),
        (b"\x80", r"'\u0080'", VALUE),
        (b"\xa0", r"'\u00a0'", VALUE),
        (b"\xad", r"'\u00ad'", VALUE),
        (b"\x7f", r"'\x7f'", VALUE),
        (b"\x0b", r"'\v'", VALUE),
        (b"\\", r"'\\'", VALUE),
        (b"[" * 10_001, "'['", "exceeded max depth"),
        (b'{"a":' * 10_001, "'{'", "exceeded max depth"),
    ],
)
def test_an_error_of_json_names_the_byte_and_its_place(body, quoted, where):
    assert json_error(body) == f"invalid character {quoted} {where}"


@pytest.mark.parametrize("body", [b"", b" ", b"\n\t\r "])
def test_an_empty_body_is_at_its_end(body):
    assert json_error(body) == "EOF"


@pytest.mark.parametrize(
    "body", [b"-", b"1.", b"1e", b"1e+", b"t", b"nul", b'"', b'"\\', rb'"\u12', b"{", b'{"a', b"["]
)
def test_a_body_that_ends_inside_a_value_is_cut_off(body):
    assert json_error(body) == "unexpected EOF"
    assert json_error(b" " + body) == "unexpected EOF"


@pytest.mark.parametrize(
    "body",
    [
        *(b"0", b"-0", b"12.5e-3", b"1E+5", b"true", b"false", b"null", b'""', b"{}", b"[]", b" [ ] ", b"[[],{}]"),
        *(b'{"a":[1,{"b":null}],"c":"d"}', rb'"\b\f\n\r\t\\\/\"\u00e9"', rb'"\ud800"', b'"\xff\x7f"'),
        *(b"{} x", b"1 2", b"truefalse", b'""""', b"[]]", b"01"),
        b"[" * 10_000 + b"]" * 10_000,
    ],
)
def test_a_body_that_begins_with_a_value_is_well_formed(body):
    assert json_error(body) is None


def loads_strictly(text: str) -> bool:
    """Tell whether Python takes a text as JSON, without the constants that JSON has not."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Return a JSON text with some of it replaced."""
    text = json.dumps(draw(values), ensure_ascii=draw(st.booleans()))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(start + 2, len(text))))
    return text[:start] + draw(st.text('{}[]",:\\ 01.-+eEtun\x00\n\x7fé', max_size=2)) + text[end:]


@given(damaged() | st.text('{}[]",:\\/ \n\t01.-+eEtrufalsn\x00\x1fé'))
@example("1],[2")
@example("-Infinity")
def test_what_is_well_formed_is_so_for_python_too(text):
    # In an array that its last byte closes, nothing can follow the value unseen.
    array = f"[{text}]".encode()

    is_well_formed = json_error(array) is None and json_error(array[:-1]) == "unexpected EOF"

    assert is_well_formed == loads_strictly(f"[{text}]")


@given(values, st.booleans(), st.data())
def test_every_part_of_an_array_is_cut_off(value, ensure_ascii, data):
    body = json.dumps([value], ensure_ascii=ensure_ascii).encode()

    assert json_error(body) is None
    assert json_error(body[: data.draw(st.integers(1, len(body) - 1))]) == "unexpected EOF"


@given(st.binary())
def test_no_body_raises(body):
    error = json_error(body)

    assert error is None or error in {"EOF", "unexpected EOF"} or error.startswith("invalid character '")
