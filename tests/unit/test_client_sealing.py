"""client.sealing: the vectors to the byte, every message comes back, and every wrong input says what is wrong."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from pushgate.client.errors import CiphertextError, MessageError, MonthError, PaddingError, UnknownKeyError
from pushgate.client.keychain import KeyChain, MonthKey, Secret
from pushgate.client.sealing import MAX_MESSAGE_BYTES, Sealed, open_sealed, pad, seal, unpad
from pushgate.model import Counts, Device, EncryptedNotification, Prio

KEY = MonthKey(
    key_identifier="key-1",
    month="2023-10",
    key=Secret.from_hex("3b4adcd58dea98db8e9cb0f5763fcd04fe932d67926cc04b20ba2a2f304ffff9"),
)
IV = bytes(range(12))
TASK = '{"ChannelId":"erp.task.activate","Identifier":"Task.identifier.PrescriptionID","IdentifierType":"TaskId"}'


def iv_of_the_vectors(size: int) -> bytes:
    assert size == len(IV)
    return IV


@pytest.mark.parametrize(
    ("message", "prefix", "suffix", "tag", "digest"),
    [
        (
            "test",
            "AAECAwQFBgcICQoLfRg2UVds9qo3x6hTWBaQ1sBtXBhqC2Oz1fI9hbdXn0vDiUZ0",
            "mxobAToMPzt5xpnaV7y8T2O0RjKk2hIT5mtYRHqgrPI=",
            "63b44632a4da1213e66b58447aa0acf2",
            "35addf35019c4ea6346cc13a34156bec3be730eed23826a01c9cbb033a13b5ef",
        ),
        (
            TASK,
            "AAECAwQFBgcICQoL",
            "yW5CUX8OJTkNh8qRar3tRta0g2WntM2k0DH+Mju3qeQ=",
            "d6b48365a7b4cda4d031fe323bb7a9e4",
            "3063e82064258c1180e5fed9f1ef02dc51fa9757c8b55fc4a85ce8b08056ee9e",
        ),
    ],
    ids=["A", "B"],
)
def test_sealing_gives_the_vector(message: str, prefix: str, suffix: str, tag: str, digest: str) -> None:
    sealed = seal(message, key=KEY, entropy=iv_of_the_vectors)
    assert len(sealed.ciphertext) == 1404
    assert sealed.ciphertext.startswith(prefix)
    assert sealed.ciphertext.endswith(suffix)
    assert base64.b64decode(sealed.ciphertext)[-16:].hex() == tag
    assert hashlib.sha256(sealed.ciphertext.encode()).hexdigest() == digest
    assert (sealed.time_message_encrypted, sealed.key_identifier) == ("2023-10", "key-1")
    assert open_sealed(sealed, keys=[KEY]) == message.encode()


@pytest.mark.parametrize(
    ("message", "head"), [(b"test", "504e4d3103f62020"), (TASK.encode(), "504e4d3103912020"), (b"", "504e4d3103fa2020")]
)
def test_padding_is_magic_length_spaces_and_message(message: bytes, head: str) -> None:
    padded = pad(message)
    assert len(padded) == 1024
    assert padded.hex().startswith(head)
    assert padded.endswith(b"  " + message)


def test_a_message_of_1018_bytes_fills_the_padding_and_one_more_is_refused() -> None:
    full = b"x" * MAX_MESSAGE_BYTES
    assert pad(full) == b"PNM1\0\0" + full
    assert open_sealed(seal(full, key=KEY), keys=[KEY]) == full
    with pytest.raises(MessageError, match="at most 1018 bytes, not 1019"):
        seal(full + b"x", key=KEY)
    with pytest.raises(MessageError, match="not 1019"):
        seal("ä" * 509 + "x", key=KEY)


def test_half_a_surrogate_pair_is_refused_without_repeating_the_message() -> None:
    with pytest.raises(MessageError, match="surrogate") as caught:
        seal("confidential \ud800", key=KEY)
    assert "confidential" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(message=st.binary(max_size=MAX_MESSAGE_BYTES), iv=st.binary(min_size=12, max_size=12))
def test_whatever_is_sealed_is_opened(message: bytes, iv: bytes) -> None:
    sealed = seal(message, key=KEY, entropy=lambda _: iv)
    assert len(sealed.ciphertext) == 1404
    assert open_sealed(sealed, keys=[KEY]) == message


@given(text=st.text(st.characters(codec="utf-8"), max_size=250))
def test_text_is_sealed_as_utf_8(text: str) -> None:
    assert open_sealed(seal(text, key=KEY), keys=[KEY]).decode() == text


@given(message=st.binary(max_size=MAX_MESSAGE_BYTES))
def test_padding_comes_off_as_it_went_on(message: bytes) -> None:
    assert unpad(pad(message)) == message


@given(padded=st.one_of(st.binary(min_size=1024, max_size=1024), st.binary(max_size=1018).map(b"PNM1\3\0".__add__)))
def test_whatever_unpads_is_what_pad_makes(padded: bytes) -> None:
    try:
        message = unpad(padded)
    except PaddingError:
        return
    assert pad(message) == padded


def test_two_seals_of_one_message_differ() -> None:
    assert seal("test", key=KEY).ciphertext != seal("test", key=KEY).ciphertext


@given(bit=st.integers(0, 1052 * 8 - 1))
def test_any_flipped_bit_is_found(bit: int) -> None:
    blob = bytearray(base64.b64decode(seal("test", key=KEY).ciphertext))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CiphertextError, match="changed"):
        open_sealed(carrying(bytes(blob)), keys=[KEY])


@given(at=st.integers(0, 1403), put=st.sampled_from("AZaz09+/=-_ \n\u00e4"))
def test_any_changed_character_is_found(at: int, put: str) -> None:
    text = seal("test", key=KEY).ciphertext
    changed = text[:at] + put + text[at + 1 :]
    sealed = Sealed(ciphertext=changed, time_message_encrypted="2023-10", key_identifier="key-1")
    if changed != text:
        with pytest.raises(CiphertextError):
            open_sealed(sealed, keys=[KEY])


def carrying(blob: bytes) -> Sealed:
    text = base64.b64encode(blob).decode()
    return Sealed(ciphertext=text, time_message_encrypted="2023-10", key_identifier="key-1")


@pytest.mark.parametrize(
    ("ciphertext", "says"),
    [
        ("", "1404 characters, not 0"),
        ("A" * 1403, "1404 characters, not 1403"),
        ("A" * 1408, "1404 characters, not 1408"),
        ("base64_of_ciphertext_1_" + "0" * 1381, "not Base64"),
        ("A" * 1404, "as sealing writes it"),
        ("A" * 1402 + "==", "as sealing writes it"),
        ("A" * 1402 + "B=", "as sealing writes it"),
    ],
)
def test_a_ciphertext_of_another_form_is_refused(ciphertext: str, says: str) -> None:
    sealed = Sealed(ciphertext=ciphertext, time_message_encrypted="2023-10", key_identifier="key-1")
    with pytest.raises(CiphertextError, match=says):
        open_sealed(sealed, keys=[KEY])


def test_a_wrong_key_opens_nothing() -> None:
    wrong = MonthKey(key_identifier="key-1", month="2023-10", key=Secret(bytes(32)))
    with pytest.raises(CiphertextError, match="not sealed with this key"):
        open_sealed(seal("test", key=KEY), keys=[wrong])


@pytest.mark.parametrize(
    ("padded", "says"),
    [
        (b"PNM2\x03\xf6" + b" " * 1014 + b"test", "begin with PNM1"),
        (b"PNM1\x03\xfb" + b" " * 1018, "longer than the message"),
        (b"PNM1\xff\xff" + b" " * 1018, "longer than the message"),
        (b"PNM1\x03\xf6" + b" " * 1013 + b"\0test", "other than spaces"),
        (b"PNM1\x03\xf6" + b"\x02" * 1014 + b"test", "other than spaces"),
    ],
)
def test_wrong_padding_inside_a_genuine_ciphertext_is_named(padded: bytes, says: str) -> None:
    blob = IV + AESGCM(KEY.key.reveal()).encrypt(IV, padded, None)
    with pytest.raises(PaddingError, match=says):
        open_sealed(carrying(blob), keys=[KEY])


def test_wrong_padding_without_a_genuine_tag_is_a_forged_ciphertext() -> None:
    blob = IV + AESGCM(bytes(32)).encrypt(IV, b"PNM2" + bytes(1020), None)
    with pytest.raises(CiphertextError, match="not sealed with this key"):
        open_sealed(carrying(blob), keys=[KEY])


@pytest.mark.parametrize("size", [0, 1023, 1025])
def test_a_padded_message_has_1024_bytes(size: int) -> None:
    with pytest.raises(PaddingError, match=f"not {size}"):
        unpad(b"PNM1\0\0".ljust(size)[:size])


CHAIN = KeyChain.begin(bytes(32), key_identifier="key-2", month="2023-10")


def test_a_message_sealed_seconds_before_the_month_ended_still_opens() -> None:
    sealed = seal("late", key=CHAIN.newest)
    assert open_sealed(sealed, keys=CHAIN.advance("2023-11").keys) == b"late"
    assert open_sealed(sealed, keys=CHAIN.advance("2023-12").keys) == b"late"


def test_keys_of_several_chains_are_told_apart_by_their_identifier() -> None:
    keys = (*CHAIN.advance("2023-12").keys, KEY)
    assert open_sealed(seal("one", key=KEY), keys=keys) == b"one"
    assert open_sealed(seal("two", key=CHAIN.newest), keys=keys) == b"two"


def test_a_key_that_is_not_there_is_named_as_unknown_forgotten_or_not_yet_derived() -> None:
    sealed = seal("test", key=CHAIN.newest)
    with pytest.raises(UnknownKeyError, match="no key has this key_identifier"):
        open_sealed(sealed, keys=[KEY])
    with pytest.raises(UnknownKeyError, match="2023-10 is not kept any more"):
        open_sealed(sealed, keys=CHAIN.advance("2024-01").keys)
    with pytest.raises(UnknownKeyError, match="2023-11 is not derived yet"):
        open_sealed(seal("test", key=CHAIN.advance("2023-11").newest), keys=CHAIN.keys)


@pytest.mark.parametrize("month", ["2023-13", "23-10", "October", ""])
def test_a_month_that_is_none_is_named(month: str) -> None:
    sealed = Sealed(ciphertext="A" * 1404, time_message_encrypted=month, key_identifier="key-1")
    with pytest.raises(MonthError, match="YYYY-MM"):
        open_sealed(sealed, keys=[KEY])
    with pytest.raises(MonthError, match="YYYY-MM"):
        seal("test", key=MonthKey(key_identifier="key-1", month=month, key=Secret(bytes(32))))


def test_a_sealed_message_becomes_the_notification_for_its_device() -> None:
    sealed = seal("test", key=KEY)
    device = Device("de.example.app.apns", "pushkey")
    made = sealed.for_device(device, prio=Prio.LOW, counts=Counts(unread=2), identifier="history-7")
    assert made == EncryptedNotification(
        device=device,
        ciphertext=sealed.ciphertext,
        time_message_encrypted="2023-10",
        key_identifier="key-1",
        identifier="history-7",
        prio=Prio.LOW,
        counts=Counts(unread=2),
    )
    assert sealed.for_device(device).prio is Prio.HIGH


def test_a_sealed_message_does_not_print_its_ciphertext() -> None:
    sealed = seal("test", key=KEY)
    assert repr(sealed) == "Sealed(time_message_encrypted='2023-10')"
    assert sealed.__rich_repr__() == [("time_message_encrypted", "2023-10")]
