"""What a sealed row gives away, to whom it opens, and that no nonce comes twice."""

from __future__ import annotations

import hashlib
import secrets
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from pushgate.spool.cipher import HEADER_BYTES, NO_KEYS, SUBKEYS_KEPT, Cipher, Keys, key_id
from pushgate.spool.envelope import Unreadable

LANE = "de.example.app.apns"
OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
PAYLOAD = b"\x01Ethe swordfish swims at midnight"


def cipher(*keys: bytes) -> Cipher:
    """One of an opening of its own."""
    return Cipher(Keys(keys), salt=secrets.token_bytes(16))


@given(st.binary(max_size=3000), st.text(max_size=80))
def test_what_was_sealed_opens_after_a_restart_too(payload: bytes, lane: str) -> None:
    sealing = cipher(NEW)
    row = sealing.seal(lane, payload)
    assert len(row) == HEADER_BYTES + len(payload) + 16
    assert sealing.open(lane, row) == cipher(NEW).open(lane, row) == payload


def test_a_row_says_its_key_and_nothing_of_its_content() -> None:
    row = cipher(NEW).seal(LANE, PAYLOAD)
    assert row[:5] == b"\x02" + hashlib.sha256(b"pushgate spool key id" + NEW).digest()[:4]
    assert b"swordfish" not in row
    assert NEW not in row


def test_a_row_is_what_its_description_says() -> None:
    """RFC 5869 and AES-256-GCM, put together once more."""
    row = cipher(NEW).seal(LANE, PAYLOAD)
    subkey = HKDF(SHA256(), 32, salt=row[5:21], info=b"pushgate spool payload").derive(NEW)
    assert AESGCM(subkey).decrypt(row[21:33], row[33:], LANE.encode()) == PAYLOAD


def test_no_nonce_comes_twice_under_a_salt_and_no_salt_twice() -> None:
    salts = set()
    for _ in range(20):
        sealing = cipher(NEW)
        rows = [sealing.seal(LANE, PAYLOAD) for _ in range(300)]
        assert len({row[5:21] for row in rows}) == 1
        assert all(one[21:33] < next_one[21:33] for one, next_one in pairwise(rows))
        salts.add(rows[0][5:21])
    assert len(salts) == 20


def test_the_first_key_seals_and_each_of_them_opens() -> None:
    before, between, after = cipher(OLD), cipher(NEW, OLD), cipher(NEW)
    old_row, new_row = before.seal(LANE, PAYLOAD), between.seal(LANE, PAYLOAD)
    assert new_row[1:5] == key_id(NEW) == between.sealing_id
    assert between.ids == {key_id(NEW), key_id(OLD)}
    assert between.open(LANE, old_row) == after.open(LANE, new_row) == PAYLOAD
    with pytest.raises(Unreadable, match="key that is not given"):
        after.open(LANE, old_row)
    with pytest.raises(Unreadable, match="key that is not given"):
        Cipher(NO_KEYS, salt=bytes(16)).open(LANE, new_row)


def test_a_row_that_was_changed_cut_off_or_moved_to_another_lane_cannot_be_read() -> None:
    opening = cipher(NEW)
    row = opening.seal(LANE, PAYLOAD)
    for position in range(1, len(row)):
        changed = bytearray(row)
        changed[position] ^= 1
        with pytest.raises(Unreadable):
            opening.open(LANE, bytes(changed))
    for length in range(1, len(row)):
        with pytest.raises(Unreadable):
            opening.open(LANE, row[:length])
    with pytest.raises(Unreadable) as caught:
        opening.open("my-project.app.firebase", row)
    assert caught.value.__cause__ is None


def test_plain_rows_are_read_whether_there_is_a_key_or_not() -> None:
    off = Cipher(NO_KEYS, salt=bytes(16))
    assert off.seal(LANE, PAYLOAD) == PAYLOAD
    assert (off.sealing_id, off.ids) == (b"", frozenset())
    for each in (off, cipher(NEW)):
        assert each.open(LANE, PAYLOAD) == PAYLOAD
        assert each.open(LANE, b"") == b""


def test_rows_of_more_openings_than_are_kept_in_mind_are_all_read() -> None:
    rows = [cipher(OLD).seal(LANE, PAYLOAD) for _ in range(SUBKEYS_KEPT * 2)]
    opening = cipher(NEW, OLD)
    for _ in range(2):
        assert {opening.open(LANE, row) for row in rows} == {PAYLOAD}
    assert opening._subkey.cache_info().currsize == SUBKEYS_KEPT


def test_keys_do_not_print() -> None:
    keys = Keys((OLD, NEW))
    assert repr(keys) == str(keys) == "Keys(2)"
    assert all(repr(key)[2:10] not in f"{cipher(OLD, NEW)!r} {cipher(OLD).__dict__['_header']!r}" for key in (OLD, NEW))
