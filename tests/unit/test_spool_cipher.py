"""What a sealed row gives away, to whom it opens, and to whom it does not."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from hypothesis import given
from hypothesis import strategies as st

from pushgate.spool.cipher import NO_KEYS, OVERHEAD_BYTES, Cipher, Keys, key_id
from pushgate.spool.envelope import Unreadable

LANE = "de.example.app.apns"
OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
SEED, OTHER_SEED = secrets.token_bytes(16), secrets.token_bytes(16)
PAYLOAD = b"\x01Ethe swordfish swims at midnight"
CIPHERS = pytest.mark.parametrize("keys", [NO_KEYS, Keys((NEW,)), Keys((NEW, OLD))], ids=str)


def cipher(*keys: bytes) -> Cipher:
    return Cipher(Keys(keys))


@given(st.binary(max_size=3000), st.text(max_size=80), st.sampled_from([(), (NEW,), (OLD, NEW)]))
def test_what_was_sealed_opens_with_its_seed_after_a_restart_too(
    payload: bytes, lane: str, keys: tuple[bytes, ...]
) -> None:
    row = cipher(*keys).seal(lane, payload, SEED)
    assert len(row) == OVERHEAD_BYTES + len(payload)
    assert cipher(*keys).open(lane, row, SEED) == payload


@CIPHERS
def test_without_its_seed_nobody_opens_it(keys: Keys) -> None:
    opening = Cipher(keys)
    row = opening.seal(LANE, PAYLOAD, SEED)
    for seed in (OTHER_SEED, bytes(16), b"", SEED[:-1], SEED + b"\0"):
        with pytest.raises(Unreadable, match="its seed is not"):
            opening.open(LANE, row, seed)


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["no key", "a key"])
def test_a_row_is_what_its_description_says(keys: tuple[bytes, ...]) -> None:
    """The derivation and AES-256-GCM, put together once more by an implementation of others."""
    key = keys[0] if keys else b""
    row = cipher(*keys).seal(LANE, PAYLOAD, SEED)
    assert row[:4] == hashlib.sha256(b"pushgate spool key id" + key).digest()[:4]
    row_key = ConcatKDFHash(SHA256(), 32, otherinfo=b"row").derive(key + SEED)
    assert AESGCM(row_key).decrypt(bytes(12), row[4:], LANE.encode()) == PAYLOAD
    assert b"swordfish" not in row
    assert key == b"" or key not in row
    assert SEED not in row


def test_equal_payloads_have_nothing_in_common_under_two_seeds_or_two_keys() -> None:
    rows = [Cipher(keys).seal(LANE, bytes(64), seed) for keys in (NO_KEYS, Keys((NEW,))) for seed in (SEED, OTHER_SEED)]
    pieces = [row[start : start + 16] for row in rows for start in range(4, 68, 16)]
    assert len(set(pieces)) == len(pieces) == 16


def test_the_first_key_seals_and_each_of_them_opens() -> None:
    before, between, after = cipher(OLD), cipher(NEW, OLD), cipher(NEW)
    old_row, new_row = before.seal(LANE, PAYLOAD, SEED), between.seal(LANE, PAYLOAD, SEED)
    assert new_row[:4] == key_id(NEW) == between.sealing_id
    assert between.ids == {key_id(NEW), key_id(OLD)}
    assert between.open(LANE, old_row, SEED) == after.open(LANE, new_row, SEED) == PAYLOAD
    for opening, row in ((after, old_row), (Cipher(NO_KEYS), new_row)):
        with pytest.raises(Unreadable, match="key that is not given"):
            opening.open(LANE, row, SEED)


def test_what_was_sealed_without_a_key_opens_with_and_without_one() -> None:
    off = Cipher(NO_KEYS)
    assert (off.sealing_id, off.ids) == (b"", frozenset())
    row = off.seal(LANE, PAYLOAD, SEED)
    for each in (off, cipher(NEW)):
        assert each.open(LANE, row, SEED) == PAYLOAD


@CIPHERS
def test_a_row_that_was_changed_cut_off_or_moved_to_another_lane_cannot_be_read(keys: Keys) -> None:
    opening = Cipher(keys)
    row = opening.seal(LANE, PAYLOAD, SEED)
    for position in range(len(row)):
        changed = bytearray(row)
        changed[position] ^= 1
        with pytest.raises(Unreadable):
            opening.open(LANE, bytes(changed), SEED)
    for length in range(len(row)):
        with pytest.raises(Unreadable):
            opening.open(LANE, row[:length], SEED)
    with pytest.raises(Unreadable) as caught:
        opening.open("my-project.app.firebase", row, SEED)
    assert caught.value.__cause__ is None


def test_keys_do_not_print() -> None:
    keys = Keys((OLD, NEW))
    assert repr(keys) == str(keys) == "Keys(2)"
    assert all(repr(key)[2:10] not in repr(cipher(OLD, NEW)) for key in (OLD, NEW))
