"""client.keychain: the published chain to the byte, month by month, never back, and nothing secret in print."""

from __future__ import annotations

import copy
import datetime
import json
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.client.errors import MonthError, SecretError, StateError
from pushgate.client.keychain import (
    KeyChain,
    MonthKey,
    Secret,
    check_month,
    derive,
    month_of,
    new_iss,
    new_key_identifier,
)

ISS = "f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2"
# month, secret of the month, key of the month; the first two stand in the concept of the API's publisher
VECTORS = [
    (
        "2023-10",
        "185fed66ea5cabbe00147bbd298b5dab0ed41b57ab254d35897b3a4504306e3b",
        "3b4adcd58dea98db8e9cb0f5763fcd04fe932d67926cc04b20ba2a2f304ffff9",
    ),
    (
        "2023-11",
        "0c8662d90b04818afb317406fe7fcfcf8d103cd9bc6ad7847890d28620e85ec3",
        "39aa5dacd538f53f4b956d84c9b8f2e26933274d160b9fd1a263a27681c6331b",
    ),
    (
        "2023-12",
        "64d15702e8b1d716cd5a5e3adc16e3e6ccf993c9f7a61724fee8aa5dd28d5363",
        "fa8e3de84f74451644289b97022f647543ad750e4cc6dc9ae883109438dbef31",
    ),
    (
        "2024-01",
        "8ae00cb33ebbc08a4507e637856b0677b8f23e068e0009805bfebbcd08258d50",
        "b4fd959856cfcff43d3ad09e5cf29429dfab590fbebd1841db03ef550ffc2a22",
    ),
]


def chain(month: str = "2023-10") -> KeyChain:
    return KeyChain.begin(Secret.from_hex(ISS), key_identifier="key-1", month=month)


@pytest.mark.parametrize(("month", "secret", "key"), VECTORS)
def test_the_chain_gives_the_vectors_of_every_month(month: str, secret: str, key: str) -> None:
    at = chain().advance(month)
    assert at.secret.reveal().hex() == secret
    assert at.newest.key.reveal().hex() == key
    assert (at.newest.month, at.newest.key_identifier) == (month, "key-1")


def test_a_skipped_month_gives_another_key_than_the_walk() -> None:
    skipped = derive(chain().secret, "2023-12")
    assert skipped[0] != chain().advance("2023-12").secret
    assert skipped[1] != chain().advance("2023-12").newest.key


def test_advancing_in_one_step_or_in_many_gives_the_same_chain() -> None:
    assert chain().advance("2023-11").advance("2023-12").advance("2024-01") == chain().advance("2024-01")
    assert chain().advance("2023-10") == chain()


def test_keys_older_than_two_months_are_forgotten_and_the_youngest_never() -> None:
    assert [key.month for key in chain().advance("2023-12").keys] == ["2023-10", "2023-11", "2023-12"]
    assert [key.month for key in chain().advance("2024-01").keys] == ["2023-11", "2023-12", "2024-01"]
    assert [key.month for key in chain().keys] == ["2023-10"]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("2023-09", "stands at 2023-10 and does not go back to 2023-09"),
        ("2033-11", "121 months ahead"),
        ("2023-13", "YYYY-MM"),
        ("2023-00", "YYYY-MM"),
        ("2023-1", "YYYY-MM"),
        ("2023-10\n", "YYYY-MM"),
        ("٢٠٢٣-10", "YYYY-MM"),
        ("", "YYYY-MM"),
    ],
)
def test_a_step_that_a_chain_does_not_take_is_refused(to: str, says: str) -> None:
    with pytest.raises(MonthError, match=says):
        chain().advance(to)


def test_ten_years_are_walked() -> None:
    assert chain().advance("2033-10").newest.month == "2033-10"


def test_a_chain_does_not_begin_in_a_month_that_is_none() -> None:
    with pytest.raises(MonthError, match="YYYY-MM"):
        chain("October")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_an_iss_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(SecretError, match=f"32 bytes, not {size}"):
        KeyChain.begin(bytes(size), key_identifier="key-1", month="2023-10")


def test_an_iss_that_is_not_hexadecimal_is_refused() -> None:
    with pytest.raises(SecretError, match="hexadecimal"):
        Secret.from_hex("g" * 64)


def test_begin_takes_bytes_as_well_as_a_secret() -> None:
    assert KeyChain.begin(bytes.fromhex(ISS), key_identifier="key-1", month="2023-10") == chain()


@given(months=st.integers(0, 40))
def test_a_stored_chain_goes_on_as_the_one_that_was_stored(months: int) -> None:
    at = chain().advance(f"{2023 + (9 + months) // 12}-{(9 + months) % 12 + 1:02d}")
    restored = KeyChain.restore(at.export_secrets())
    assert restored == at
    assert restored.advance("2027-05") == at.advance("2027-05")


def stored(**changes: object) -> bytes:
    state = json.loads(chain().advance("2023-12").export_secrets())
    return json.dumps({**state, **changes}).encode()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (b"", "not the state"),
        (b"\xff\xfe", "not the state"),
        (b"[]", "not the state"),
        (stored(keys=None), "not the state"),
        (stored(version=2), "version 2"),
        (stored(secret="ab"), "32 bytes"),
        (stored(secret="no hex"), "hexadecimal"),
        (stored(keys={}), "months are missing"),
        (stored(keys={"2023-10": ISS, "2023-12": ISS}), "months are missing"),
        (stored(keys={"2023-10": "ab"}), "32 bytes"),
        (stored(keys={"10/2023": ISS}), "YYYY-MM"),
    ],
)
def test_a_state_that_is_damaged_is_refused(state: bytes, says: str) -> None:
    with pytest.raises(StateError, match=says):
        KeyChain.restore(state)


def test_a_state_with_forgotten_months_is_cut_to_what_is_kept() -> None:
    keys = {month: key for month, _, key in VECTORS}
    restored = KeyChain.restore(stored(keys=keys))
    assert [key.month for key in restored.keys] == ["2023-11", "2023-12", "2024-01"]


@pytest.mark.parametrize("show", [repr, str, "{0}".format, "%r".__mod__])
def test_no_secret_is_printed(show: object) -> None:
    assert callable(show)
    at = chain().advance("2023-11")
    for value in (at, at.secret, at.newest, [at], (at.keys,)):
        text = show(value)
        for _, secret, key in VECTORS[:2]:
            assert secret not in text
            assert key not in text
            assert str(bytes.fromhex(secret))[2:-1] not in text
            assert str(bytes.fromhex(key))[2:-1] not in text
    assert [name for name, _ in at.__rich_repr__()] == ["newest"]
    assert [name for name, _ in at.newest.__rich_repr__()] == ["month"]


def test_secrets_leave_only_by_export() -> None:
    for value in (chain(), chain().newest, chain().secret):
        with pytest.raises(TypeError, match="export_secrets"):
            pickle.dumps(value)
        with pytest.raises(TypeError, match="export_secrets"):
            copy.deepcopy(value)
        with pytest.raises(TypeError):
            msgspec.json.encode(value)
        with pytest.raises(TypeError):
            json.dumps(value)


@pytest.mark.parametrize("field", ["keys", "secret", "key", "month", "key_identifier"])
def test_chains_and_keys_are_values_that_nobody_changes(field: str) -> None:
    for value in (chain(), chain().newest, chain().secret):
        with pytest.raises(AttributeError):
            setattr(value, field, None)


def test_a_state_on_its_way_to_storage_does_not_print() -> None:
    from pushgate.client import keychain

    state = msgspec.json.decode(chain().export_secrets(), type=keychain._State)
    assert VECTORS[0][1] not in repr(state)
    assert list(state.__rich_repr__()) == []


def test_secrets_are_equal_by_value_and_by_nothing_else() -> None:
    assert Secret(bytes(32)) == Secret(bytes(32))
    assert len({Secret(bytes(32)), Secret(bytes(32))}) == 1
    assert Secret(bytes(32)) != Secret(b"\1" + bytes(31))
    assert Secret(bytes(32)) != bytes(32)


def test_a_new_iss_is_32_bytes_from_the_given_entropy_and_random_without_it() -> None:
    assert new_iss(entropy=lambda size: b"\7" * size) == Secret(b"\7" * 32)
    assert new_iss() != new_iss()
    assert new_key_identifier() != new_key_identifier()


def test_the_month_of_a_moment_is_that_of_its_own_time_zone() -> None:
    moment = datetime.datetime(2024, 2, 29, 23, 30, tzinfo=datetime.UTC)
    assert month_of(moment) == "2024-02"
    assert month_of(moment.astimezone(datetime.timezone(datetime.timedelta(hours=1)))) == "2024-03"
    assert check_month(month_of(datetime.date(987, 1, 1))) == "0987-01"


def test_a_month_key_can_be_made_from_a_stored_key_alone() -> None:
    key = MonthKey(key_identifier="key-1", month="2023-10", key=Secret.from_hex(VECTORS[0][2]))
    assert key == chain().newest
