"""What is compressed, and for whom."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.edge_cases import EDGES
from taskfold.http.serve.compression import accepts_gzip, gzip_body


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
