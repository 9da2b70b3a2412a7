"""The client protocol of NATS: what comes in any portions, what is no NATS, and how we prove who we are."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from pushgate.errors import SpoolUnusable
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.cluster import Server
from pushgate.spool.jetstream.held import nak, numbers_of
from pushgate.spool.jetstream.layout import Layout, text_of, token
from pushgate.spool.jetstream.login import Login, connect_line
from pushgate.spool.jetstream.protocol import BadProtocol, Message, Parser

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
"""The example of the documentation of NATS ("NKeys")."""


class Told:
    """Everything that a parser tells, in order."""

    def __init__(self) -> None:
        self.all: list[object] = []

    def told_info(self, info: bytes) -> None:
        self.all.append(("info", info))

    def told_error(self, text: str) -> None:
        self.all.append(("error", text))

    def pinged(self) -> None:
        self.all.append("ping")

    def ponged(self) -> None:
        self.all.append("pong")


def fed(portions: Sequence[bytes]) -> list[object]:
    told = Told()
    parser = Parser(told)
    parser.handlers[b"1"] = told.all.append
    for portion in portions:
        parser.feed(portion)
    return told.all


STREAM = (
    b'INFO {"version":"2.11.0"} \r\n+OK\r\nPING\r\npong\r\n'
    b"MSG a.b 1 5\r\nhello\r\n"
    b"MSG a.b 1 $JS.ACK.x 4\r\n\r\n\r\n\r\n"
    b"MSG nobody 7 2\r\nxx\r\n"
    b"HMSG a.b 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"
    b"HMSG a.b 1 reply 29 32\r\nNATS/1.0\r\nKey: v\r\nOther:w\r\n\r\nabc\r\n"
    b"-ERR 'Authorization Violation'\r\n"
)
WHOLE = [
    ("info", b'{"version":"2.11.0"} '),
    "ping",
    "pong",
    Message("a.b", "", b"", b"hello"),
    Message("a.b", "$JS.ACK.x", b"", b"\r\n\r\n"),
    Message("a.b", "", b"NATS/1.0 404 No Messages\r\n\r\n", b""),
    Message("a.b", "reply", b"NATS/1.0\r\nKey: v\r\nOther:w\r\n\r\n", b"abc"),
    ("error", "Authorization Violation"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_portions_of_any_size_say_the_same(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert fed([STREAM[a:b] for a, b in pairwise(places)]) == WHOLE


def test_a_status_is_told_from_a_message_and_headers_are_found() -> None:
    status, message = WHOLE[5], WHOLE[6]
    assert isinstance(status, Message)
    assert isinstance(message, Message)
    assert (status.status, status.told) == (404, "No Messages")
    assert (message.status, message.value("Key"), message.value("Other"), message.value("key")) == (0, "v", "w", "")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 99999999999\r\n",
        b"HMSG a 1 9 4\r\n",
        b"HMSG a 1 x 4\r\n",
        b"\r\n",
        b"x" * (protocol.MOST_LINE_BYTES + 1),
    ],
)
def test_what_is_no_nats_is_refused(rubbish: bytes) -> None:
    with pytest.raises(BadProtocol):
        fed([rubbish])


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    try:
        fed([data[:7], data[7:]])
    except BadProtocol as fault:
        assert str(fault)


def test_messages_go_out_as_the_protocol_wants_them() -> None:
    assert protocol.publish("a", b"xy", reply="r") == b"PUB a r 2\r\nxy\r\n"
    header = protocol.headers({"Nats-Msg-Id": "7"})
    assert header == b"NATS/1.0\r\nNats-Msg-Id: 7\r\n\r\n"
    assert protocol.publish("a", b"xy", header=header) == b"HPUB a  %d %d\r\n%bxy\r\n" % (
        len(header),
        len(header) + 2,
        header,
    )
    assert nak(0) == b"-NAK"
    assert nak(1.5) == b'-NAK {"delay": 1500000000}'


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [("$JS.ACK.s.c.3.77.9.1795.0", (3, 77)), ("$JS.ACK.domain.hash.s.c.2.5.9.1795.0.token", (2, 5))],
)
def test_attempt_and_number_stand_where_nats_is_told(reply: str, numbers: tuple[int, int]) -> None:
    assert numbers_of(reply) == numbers


@pytest.mark.parametrize("reply", ["", "_INBOX.x.1", "$JS.ACK.s.c.x.77.9.1795.0"])
def test_what_is_not_of_jetstream_has_no_numbers(reply: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        numbers_of(reply)


@given(st.text(max_size=64))
def test_any_app_id_is_one_part_of_a_subject_and_comes_back(app_id: str) -> None:
    part = token(app_id)
    assert not set(part) & set(". *>\r\n\t/\\")
    assert part.isascii()
    assert text_of(part) == app_id
    assert Layout("pushgate").lane(app_id) == f"pushgate.q.{part}"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("a.example.org", Server("a.example.org", 4222)),
        ("a.example.org:4333", Server("a.example.org", 4333)),
        ("10.0.0.7:4222", Server("10.0.0.7", 4222)),
        ("[::1]:4222", Server("::1", 4222)),
        ("[::1]", Server("::1", 4222)),
    ],
)
def test_servers_are_understood_as_a_cluster_tells_them(text: str, server: Server) -> None:
    assert Server.of(text) == server


@pytest.mark.parametrize("text", ["", ":4222", "a:x", "a:0", "a:70000"])
def test_what_is_no_server_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a server"):
        Server.of(text)


# --- logins


def test_a_seed_signs_what_the_server_asks(tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(SEED + "\n")
    proof = Login(nkey_file=tmp_path / "seed").proof("a nonce")
    assert proof["nkey"] == PUBLIC
    raw = base64.b32decode(PUBLIC + "=" * (-len(PUBLIC) % 8))[1:33]
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.urlsafe_b64decode(proof["sig"] + "=="), b"a nonce")


def test_credentials_hold_a_token_and_a_seed(tmp_path: Path) -> None:
    (tmp_path / "creds").write_text(
        f"-----BEGIN NATS USER JWT-----\nabc.def.ghi\n------END NATS USER JWT------\n\n"
        f"Keep it secret.\n-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
    )
    proof = Login(creds_file=tmp_path / "creds").proof("n")
    assert proof["jwt"] == "abc.def.ghi"
    assert proof["sig"]


def test_passwords_and_tokens_come_from_files_without_the_end_of_the_line(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("secret\n")
    assert Login(user="u", password_file=tmp_path / "p").proof("") == {"user": "u", "pass": "secret"}
    assert Login(token_file=tmp_path / "p").proof("") == {"auth_token": "secret"}
    assert Login().proof("") == {}
    line = connect_line(Login(token_file=tmp_path / "p"), nonce="", name="x", tls=True)
    assert line.startswith(b"CONNECT {")
    told = json.loads(line[8:])
    assert (told["auth_token"], told["tls_required"], told["headers"], told["no_responders"]) == (
        "secret",
        True,
        True,
        True,
    )


@pytest.mark.parametrize(
    "seed",
    ["", "x", PUBLIC, SEED[:-1], SEED[:-1] + "A", "SO" + SEED[2:], base64.b32encode(bytes(36)).decode()],
)
def test_what_is_no_seed_is_told_without_being_shown(seed: str, tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(seed)
    for login in (Login(nkey_file=tmp_path / "seed"), Login(creds_file=tmp_path / "seed")):
        with pytest.raises(SpoolUnusable) as caught:
            login.proof("n")
        assert str(tmp_path / "seed") in str(caught.value)
        assert len(seed) < 10 or seed not in str(caught.value)
    with pytest.raises(SpoolUnusable, match="cannot read"):
        Login(token_file=tmp_path / "none").proof("n")


def test_the_checksum_is_that_of_the_sample() -> None:
    raw = base64.b32decode(SEED + "=" * (-len(SEED) % 8))
    assert binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") == raw[-2:]
