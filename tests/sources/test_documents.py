"""Where documents begin and end: in any layout, cut into any blocks, and with anything between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskfold.sources import documents
from taskfold.sources.documents import Document, Documents, InvalidText

decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
BLOCKS = (1, 2, 3, 7, 64, 1 << 20)


def read(text: bytes, block: int, decoder: Callable[[bytes], Any] = decode) -> tuple[list[Any], list[InvalidText]]:
    """Return the documents of a text, the entries of lists among them, and what is none."""
    values: list[Any] = []
    faults: list[InvalidText] = []
    for found in Documents(blocks_of(text, block), decoder):
        assert text[: found.offset].count(b"\n") + 1 == found.line
        if isinstance(found, InvalidText):
            faults.append(found)
        else:
            assert text[found.offset : found.offset + len(found.text)] == found.text
            values += flat(found.value)
    return values, faults


def blocks_of(text: bytes, block: int) -> Iterator[bytes]:
    return (text[start : start + block] for start in range(0, len(text), block))


def flat(value: Any) -> list[Any]:
    """Return the entries of a list, whatever lists they are in; a null says nothing."""
    if isinstance(value, list):
        return [each for entry in value for each in flat(entry)]
    return [] if value is None else [value]


# --- any layout ---

OBJECTS: list[dict[str, Any]] = [
    {},
    {"a": 1},
    {"a": -0.5, "b": None, "c": True, "": ""},
    {"a": {}, "b": [], "c": [{}, [], [[{}]]]},
    {"a": '}{"[', "b": '"', "c": "\\", "d": '\\"', "e": "}\n{", "f": "][", '"{': "]"},
    {"Ünï": "çødé 😀 \u2028 \x7f", "k": [1, 2, 3, "x" * 70]},
    {"Events": [{"Topic": "Job", "Payload": {"Job": {"ID": "j"}}}, {"Topic": "Node"}], "Index": 7},
    {"a": [[1, [2, [3, [4, [{"b": {"c": {"d": {}}}}]]]]]]},
]
objects = st.sampled_from(OBJECTS)
between = st.sampled_from(["", "\n", "\r\n", " ", "\n\n", "\ufeff", "\nnull\n", "\t\n"])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Any], bytes]:
    """Return documents, and a text of them: compact or over lines, one after the other or in lists."""
    whole: list[Any] = []
    text = draw(st.sampled_from(["", "\ufeff", "\n"]))
    for _ in range(draw(st.integers(0, 5))):
        part = draw(st.lists(objects, max_size=3))
        indent = draw(st.sampled_from([None, 1, 2, 4, "\t"]))
        separators = draw(st.sampled_from([None, (",", ":")]))
        texts = [
            json.dumps(each, indent=indent, separators=separators, ensure_ascii=draw(st.booleans())) for each in part
        ]
        if draw(st.booleans()):
            text += json.dumps(part, indent=indent, separators=separators)
        else:
            text += draw(between).join(texts)
        text += draw(between)
        whole += part
    return whole, text.encode()


@given(layouts())
@example(([{"a": "}{"}, {}], b'{"a":"}{"}{}'))
@example((OBJECTS, json.dumps(OBJECTS, indent=0).encode()))
@example(([{"a": {}}, {"b": 1}], b'{"a": {}\n}\n[{"b":\n1}\n]'))
def test_any_layout_has_the_same_documents(layout: tuple[list[Any], bytes]) -> None:
    whole, text = layout
    for block in BLOCKS:
        assert read(text, block) == (whole, [])


@given(layouts(), st.data())
def test_of_a_text_that_is_cut_off_all_whole_documents_are_read(
    layout: tuple[list[Any], bytes], data: st.DataObject
) -> None:
    whole, text = layout
    end = data.draw(st.integers(0, len(text)))
    for block in BLOCKS:
        found, faults = read(text[:end], block)
        assert found == whole[: len(found)]
        assert [fault.is_cut for fault in faults] == [True] * len(faults)
        assert len(faults) <= 2, "a document, and the list that it is in"
    assert len(read(text[:end] + b"\n", 64)[0]) >= len(found)


# --- what is none ---

DAMAGE = (b"NaN", b"{", b"}", b"]", b"[", b'"', b"\n", b"Good morning", b"\xff", b"\\", b'{"q":1}', b",")


@given(layouts(), st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(DAMAGE), st.integers(0, 9)), max_size=3))
def test_what_is_left_out_does_not_depend_on_the_blocks(
    layout: tuple[list[Any], bytes], damages: list[tuple[int, bytes, int]]
) -> None:
    text = layout[1]
    for place, damage, gone in damages:
        at = place % (len(text) + 1)
        text = text[:at] + damage + text[at + gone :]
    results = [read(text, block) for block in BLOCKS]
    places = [[(fault.line, fault.offset, fault.is_cut) for fault in faults] for _, faults in results]
    assert all(values == results[0][0] for values, _ in results)
    assert all(each == places[0] for each in places)


@given(st.lists(objects, min_size=1, max_size=6), st.data())
def test_a_line_that_is_torn_costs_no_other_line(whole: list[Any], data: st.DataObject) -> None:
    lines = [json.dumps(each).encode() for each in whole]
    torn = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(1, len(lines[torn]) - 1))
    text = b"\n".join([*lines[:torn], lines[torn][:end], *lines[torn + 1 :], b'{"last":1}\n'])
    others = [*whole[:torn], *whole[torn + 1 :], {"last": 1}]
    for block in BLOCKS:
        found, faults = read(text, block)
        assert found == others
        assert [(fault.line, fault.is_cut) for fault in faults] == [(torn + 1, False)]


@pytest.mark.parametrize(
    ("text", "expected", "places"),
    [
        (b'{"a":1}\n{"a":NaN}\n{"b":2}\n', [{"a": 1}, {"b": 2}], [(2, 8)]),
        (b'{"a":1}{"a":+Inf}{"b":2}', [{"a": 1}, {"b": 2}], [(1, 7)]),
        (b'[{"a":1},{"a":NaN},{"b":2}]', [{"a": 1}, {"b": 2}], [(1, 9)]),
        (b'{\n "a": NaN\n}\n[\n {\n  "b": 2\n }\n]\n', [{"b": 2}], [(1, 0)]),
        (b'[\n {\n  "a": NaN\n },\n {\n  "b": 2\n }\n]\n', [{"b": 2}], [(2, 3)]),
        (b'{"a":{"b":"to\n{"c":1}\n', [{"c": 1}], [(1, 0)]),
        (b"<html>\n <p>\n</html>\n{}\n", [{}], [(1, 0), (2, 8), (3, 12)]),
        (b'curl: (18) closed\n{"a":1}\n', [{"a": 1}], [(1, 0)]),
        (b'{"a":1}}\n{"b":2}\n', [{"a": 1}, {"b": 2}], [(1, 7)]),
        (b'{"a":"\xff"}{"b":2}\n', [{"b": 2}], [(1, 0)]),
        (b'{"a":1},\n{"b":2},\n', [{"a": 1}, {"b": 2}], []),
        (b"", [], []),
        (b" \n\xef\xbb\xbf\n\n", [], []),
    ],
)
def test_reading_goes_on_behind_what_is_no_document(
    text: bytes, expected: list[Any], places: list[tuple[int, int]]
) -> None:
    for block in BLOCKS:
        found, faults = read(text, block)
        assert found == expected
        assert [(fault.line, fault.offset) for fault in faults] == places


def test_json_of_a_wrong_shape_is_left_out_whole() -> None:
    decoder = msgspec.json.Decoder(dict[str, int]).decode
    for text in (b'{"a":1}\n{"a":"x"}\n{"b":2}', b'{"a":1}{"a":"x"}{"b":2}', b'{"a":1}\n{\n"a":"x"}\n{"b":2}'):
        found, faults = read(text, 64, decoder)
        assert found == [{"a": 1}, {"b": 2}]
        assert [fault.message.partition(" - ")[0] for fault in faults] == ["Expected `int`, got `str`"]


# --- the cost ---


class Effort:
    """Counts the bytes that are looked at more than once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        problem = documents._problem

        def counted(text: bytes) -> str:
            self.bytes += len(text)
            return problem(text)

        monkeypatch.setattr(documents, "_problem", counted)

    def decode(self, text: bytes) -> Any:
        self.bytes += len(text)
        return decode(text)


COSTLY = {
    "compact, one behind the other": b'{"a":{"b":[1,2,{"c":"d"}]}}',
    "over lines": json.dumps({"a": {"b": [1, 2, {"c": "d"}]}}, indent=2).encode() + b"\n",
    "a list that never ends": b'[{"a":1},',
    "brackets": b"[",
    "braces": b'{"a":\n',
    "one string": b'"aaaaaaa',
    "torn lines": b'{"a":{"b":["c",\n{"d":1}\n',
    "torn in a string": b'{"a":{"b\n',
    "no numbers": b'{"a":NaN}',
    "line breaks": b"\n",
    "prose": b"Good morning\n",
}


@pytest.mark.parametrize("text", COSTLY.values(), ids=COSTLY)
def test_the_effort_grows_as_the_text(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    effort = Effort(monkeypatch)
    efforts = []
    for count in (1_000, 2_000):
        effort.bytes = 0
        for _ in Documents(blocks_of(text * count, 4_096), effort.decode):
            pass
        efforts.append(effort.bytes / (len(text) * count))
    # A document that is no document is looked at some more, but not the more the longer the text is.
    assert efforts[1] <= 1.3 * efforts[0] + 1


def test_a_document_is_there_before_what_follows_it_was_read() -> None:
    count = 0

    def blocks() -> Iterator[bytes]:
        nonlocal count
        for count in range(1_000):
            yield b'{"a":\n%d}' % count

    for place, found in enumerate(Documents(blocks(), decode)):
        assert isinstance(found, Document)
        assert found.value == {"a": place}
        assert count <= place + 1


def test_a_document_that_is_too_large_is_told_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 1 << 20)
    monkeypatch.setattr(documents, "_LONGEST_LINE", 1 << 16)
    large = b'{"a":"' + b"x" * (3 << 20) + b'"}'
    for text in (large + b"\n", large.replace(b":", b":\n") + b"\n"):
        found, faults = read(b'{"b":1}\n' + text + b'{"c":1}\n', 1 << 14)
        assert found == [{"b": 1}, {"c": 1}]
        assert [(fault.line, fault.message) for fault in faults] == [(2, "it is larger than 1 MiB")]
        assert len(faults[0].text) < 5_000
    # A list may be as long as it likes.
    entry = b'{"a":"' + b"x" * 1_000 + b'"}'
    assert len(read(b"[" + b",".join([entry] * 1_500) + b"]", 1 << 14)[0]) == 1_500
