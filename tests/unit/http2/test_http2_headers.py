"""Header blocks: what we encode, an independent decoder reads; what peers encode, in any form, we read."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from pushgate.http2.headers import (
    Malformed,
    Response,
    Undecodable,
    decode_headers,
    encode_headers,
    read_status,
)

NAMES = st.one_of(
    st.sampled_from([":method", ":path", ":authority", "accept", "authorization", "content-type", "www-authenticate"]),
    st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,300}", fullmatch=True).filter(
        lambda name: name not in {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
    ),
)
VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"]), max_size=400
).map(lambda value: value.strip(" "))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def decode(block: bytes) -> list[tuple[str, str]]:
    decoder = Decoder()
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    fields = [(str(name), str(value)) for name, value in decoder.decode(block)]
    assert not decoder.header_table.dynamic_entries
    return fields


@given(FIELDS, FIELDS)
def test_what_is_encoded_reads_back_and_blocks_concatenate(
    first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    assert decode(encode_headers(first) + encode_headers(second)) == first + second


@given(FIELDS)
def test_named_headers_are_never_indexed_and_the_others_are_not(fields: list[tuple[str, str]]) -> None:
    secret = {name for name, _ in fields[::2]}
    decoded: list[HeaderTuple] = list(Decoder().decode(encode_headers(fields, never_indexed=secret)))
    assert [isinstance(field, NeverIndexedHeaderTuple) for field in decoded] == [name in secret for name, _ in fields]


def test_fields_of_the_static_table_are_one_byte() -> None:
    assert encode_headers([(":method", "POST"), (":scheme", "https"), (":path", "/")]) == b"\x83\x87\x84"


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\tb", "a\x7fb", "a\x1bb", " a", "a ", "a\udc00b"])
def test_values_that_could_break_out_are_refused_without_naming_them(value: str) -> None:
    with pytest.raises(ValueError, match="header 'x-secret'") as caught:
        encode_headers([("x-secret", value)])
    assert value not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "Accept", "a b", "a\n", "a:b", ":bogus", "connection", "transfer-encoding", "ä"])
def test_names_that_http2_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no header name"):
        encode_headers([(name, "value")])


STATUSES = [200, 204, 206, 304, 400, 404, 500, 100, 103, 201, 299, 403, 410, 413, 429, 503, 599]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("resized", [True, False])
def test_status_is_read_in_every_form_a_peer_may_choose(status: int, huffman: bool, resized: bool) -> None:
    encoder = Encoder()
    if resized:
        encoder.header_table_size = 0
    block = encoder.encode([(":status", str(status)), ("apns-id", "x")], huffman=huffman)
    assert block.startswith(b"\x20") is resized
    assert read_status(block) == status


@pytest.mark.parametrize(
    "literal", [b"\x08\x03", b"\x18\x03", b"\x48\x03", b"\x0e\x03", b"\x00\x07:status\x03", b"\x20\x20\x08\x03"]
)
def test_status_as_a_literal_of_any_kind_is_read(literal: bytes) -> None:
    assert read_status(literal + b"410") == 410


@pytest.mark.parametrize("block", [b"", b"\x20", b"\x0f\x0d\x010", b"\x08\x03099", b"\x08\x0320x", b"\x08\x0220"])
def test_block_without_a_sound_status_is_malformed(block: bytes) -> None:
    with pytest.raises(Malformed):
        read_status(block)


@pytest.mark.parametrize("block", [b"\x80", b"\xbe", b"\x3f\xe1\x1f\x88", b"\x08\x83\xff\xff\xff", b"\x00\x85"])
def test_block_against_the_rules_of_hpack_is_undecodable(block: bytes) -> None:
    with pytest.raises(Undecodable):
        read_status(block)


@given(st.binary(max_size=60))
def test_no_block_whatever_raises_anything_else(block: bytes) -> None:
    for read in (read_status, decode_headers):
        with suppress(Undecodable, Malformed):
            read(block)
    assert isinstance(dict(Response(200, b"", block).headers), dict)


def test_headers_are_decoded_once_joined_and_without_the_status() -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    response = Response(200, b"x", encoder.encode([(":status", "200"), ("a", "1"), ("b", "ü"), ("a", "2")]))
    assert response.headers == {"a": "1, 2", "b": "ü"}
    assert response.headers is response.headers


@pytest.mark.parametrize(
    "fields",
    [
        [("a", "1"), (":status", "200")],
        [(":status", "200"), (":status", "200")],
        [(":status", "200"), ("Upper", "1")],
        [(":status", "200"), ("a", "1\n2")],
        [(":status", "200"), ("", "1")],
    ],
)
def test_malformed_fields_are_told_apart_and_of_a_2xx_answer_leave_no_headers(fields: list[tuple[str, str]]) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(fields)
    with pytest.raises(Malformed):
        decode_headers(block)
    assert Response(200, b"", block).headers == {}


def test_header_list_that_inflates_beyond_measure_is_undecodable() -> None:
    with pytest.raises(Undecodable):
        decode_headers(b"\x88" + b"\x9f" * 2000)


def test_response_shows_only_status_and_size() -> None:
    response = Response(200, b"secret", encode_headers([("apns-id", "secret")]))
    assert repr(response) == "Response(status=200, body_bytes=6)"
    assert response.__rich_repr__() == [("status", 200), ("body_bytes", 6)]
