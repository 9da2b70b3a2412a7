"""`pushgate keys`, run in this process: chains in files, months, and messages in whatever JSON they come."""

from __future__ import annotations

import io
import json
import os
import stat
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from pushgate import cli
from pushgate.client import KeyChain, Sealed, Secret, month_of, open_sealed, seal
from pushgate.commands import keys

ISS = "f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2"
SECRETS = {
    "2023-10": "185fed66ea5cabbe00147bbd298b5dab0ed41b57ab254d35897b3a4504306e3b",
    "2024-01": "8ae00cb33ebbc08a4507e637856b0677b8f23e068e0009805bfebbcd08258d50",
}
KEYS = {
    "2023-10": "3b4adcd58dea98db8e9cb0f5763fcd04fe932d67926cc04b20ba2a2f304ffff9",
    "2023-11": "39aa5dacd538f53f4b956d84c9b8f2e26933274d160b9fd1a263a27681c6331b",
    "2023-12": "fa8e3de84f74451644289b97022f647543ad750e4cc6dc9ae883109438dbef31",
    "2024-01": "b4fd959856cfcff43d3ad09e5cf29429dfab590fbebd1841db03ef550ffc2a22",
}
"""Vectors of the concept, and two that go on from them."""
THIS_MONTH = keys.this_month(datetime.now(UTC))


class Ran(Struct, frozen=True):
    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `pushgate keys …` in a directory of its own. Answers with exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUSHGATE_ISS", raising=False)

    def running(*arguments: str, stdin: bytes = b"", terminal: bool = False) -> Ran:
        monkeypatch.setattr("sys.stdin", (Terminal if terminal else io.TextIOWrapper)(io.BytesIO(stdin)))
        code = cli.run(["keys", *arguments])
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(errors="surrogateescape"), err.decode())

    return running


def state(name: str) -> dict[str, Any]:
    found = json.loads(Path(name).read_text())
    assert isinstance(found, dict)
    return found


def write_iss(text: str = ISS + "\n") -> str:
    Path("iss.txt").write_text(text)
    return "iss.txt"


def chain_from(month: str, name: str = "chain.json") -> KeyChain:
    """A chain in a file, begun with the ISS of the vectors."""
    chain = KeyChain.begin(Secret.from_hex(ISS), key_identifier="id-1", month=month)
    Path(name).write_bytes(chain.export_secrets())
    Path(name).chmod(0o600)
    return chain


def fields(message: str, chain: KeyChain) -> dict[str, str]:
    sealed = seal(message, key=chain.newest)
    return {name: getattr(sealed, name) for name in ("ciphertext", "time_message_encrypted", "key_identifier")}


def months_ago(count: int) -> str:
    day = datetime.strptime(THIS_MONTH, "%Y-%m").replace(tzinfo=UTC)
    for _ in range(count):
        day = (day - timedelta(days=1)).replace(day=1)
    return month_of(day)


# --- new ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "environment", "file before environment"])
def test_new_derives_the_month_from_the_iss_and_forgets_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    arguments = ["--iss-file", write_iss()] if "file" in source else []
    if "environment" in source:
        monkeypatch.setenv("PUSHGATE_ISS", "00" * 32 if arguments else ISS)
    ran = run("new", "--month", "2023-10", *arguments, "--key-identifier", "id-1", "--out", "chain.json", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.answer == {"key_identifier": "id-1", "month": "2023-10", "keychain": "chain.json"}
    made = state("chain.json")
    assert (made["secret"], made["keys"]) == (SECRETS["2023-10"], {"2023-10": KEYS["2023-10"]})
    assert ISS not in Path("chain.json").read_text()


def test_new_draws_its_own_iss_and_begins_this_month(run: Run) -> None:
    first, second = (run("new", "--out", name, "--json").answer for name in ("a.json", "b.json"))
    assert first["month"] == THIS_MONTH
    assert first["key_identifier"] != second["key_identifier"]
    assert state("a.json")["secret"] != state("b.json")["secret"]


def test_with_show_iss_the_phone_can_derive_the_same_chain(run: Run) -> None:
    ran = run("new", "--out", "chain.json", "--month", "2026-01", "--show-iss")
    told = dict(line.split() for line in ran.out.splitlines())
    phone = KeyChain.begin(Secret.from_hex(told["iss"]), key_identifier=told["key_identifier"], month=told["month"])
    assert phone == KeyChain.restore(Path("chain.json").read_bytes())
    assert "phone's side only" in ran.err
    assert told["iss"] not in ran.err


def test_with_an_iss_from_elsewhere_new_asks_for_what_belongs_to_it(run: Run) -> None:
    ran = run("new", "--iss-file", write_iss(), "--out", "chain.json")
    assert ran.code == 0
    assert "--key-identifier and --month" in ran.err


def test_only_the_owner_can_read_a_chain_whatever_the_umask(run: Run) -> None:
    before = os.umask(0)
    try:
        for arguments in ([], ["--force"]):
            run("new", "--out", "chain.json", "--month", months_ago(1), *arguments)
            assert stat.S_IMODE(Path("chain.json").stat().st_mode) == 0o600
        run("advance", "--keychain", "chain.json")
        assert stat.S_IMODE(Path("chain.json").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_chain_is_overwritten_only_by_force_and_leaves_nothing_beside_it(run: Run) -> None:
    run("new", "--out", "chain.json")
    first = state("chain.json")
    refused = run("new", "--out", "chain.json")
    assert (refused.code, state("chain.json")) == (2, first)
    assert "--force" in refused.err
    assert run("new", "--out", "chain.json", "--force").code == 0
    assert state("chain.json") != first
    assert [file.name for file in Path().iterdir()] == ["chain.json"]


@pytest.mark.parametrize("arguments", [[], ["--force"]])
def test_a_write_that_fails_leaves_what_was_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    if arguments:
        chain_from("2023-10")
    monkeypatch.setattr("os.fsync", full)
    ran = run("new", "--out", "chain.json", *arguments)
    assert (ran.code, "No space left" in ran.err) == (1, True)
    assert [file.name for file in Path().iterdir()] == (["chain.json"] if arguments else [])
    assert not arguments or state("chain.json")["secret"] == SECRETS["2023-10"]


def test_a_link_to_a_chain_stays_a_link(run: Run) -> None:
    chain_from("2023-10")
    Path("link.json").symlink_to("chain.json")
    assert run("advance", "--keychain", "link.json", "--to", "2024-01").code == 0
    assert Path("link.json").is_symlink()
    assert state("chain.json")["secret"] == SECRETS["2024-01"]


# --- advance -----------------------------------------------------------------------------------------------------


def test_advance_walks_every_month_and_keeps_three(run: Run) -> None:
    chain_from("2023-10")
    ran = run("advance", "--keychain", "chain.json", "--to", "2024-01", "--json")
    kept = ["2023-11", "2023-12", "2024-01"]
    assert ran.answer == {"key_identifier": "id-1", "month": "2024-01", "kept": kept}
    walked = state("chain.json")
    assert walked["secret"] == SECRETS["2024-01"]
    assert walked["keys"] == {month: KEYS[month] for month in kept}


@pytest.mark.parametrize(("begun", "stands"), [(months_ago(1), THIS_MONTH), (THIS_MONTH, THIS_MONTH), ("2999-01",) * 2])
def test_advance_goes_to_this_month_and_never_back(run: Run, begun: str, stands: str) -> None:
    chain_from(begun)
    ran = run("advance", "--keychain", "chain.json")
    assert f"month           {stands}\n" in ran.out
    assert max(state("chain.json")["keys"]) == stands


@pytest.mark.parametrize(
    ("moment", "month"),
    [
        (datetime(2026, 10, 31, 22, 59, tzinfo=UTC), "2026-10"),
        (datetime(2026, 10, 31, 23, 0, tzinfo=UTC), "2026-11"),
        (datetime(2026, 5, 31, 22, 0, tzinfo=UTC), "2026-06"),
    ],
)
def test_months_begin_in_berlin(moment: datetime, month: str) -> None:
    assert keys.this_month(moment) == month


def test_without_time_zone_data_months_begin_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(key: str) -> zoneinfo.ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(key)

    monkeypatch.setattr(keys, "ZoneInfo", unknown)
    assert keys.this_month(datetime(2026, 10, 31, 23, 30, tzinfo=UTC)) == "2026-10"


# --- seal and open -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ["", "test", '{"ChannelId":"erp.task.activate"}', "Grüße\nzwei Zeilen", "x" * 1018])
@pytest.mark.parametrize("way", ["text", "stdin"])
def test_what_is_sealed_opens_again(run: Run, message: str, way: str) -> None:
    chain_from(THIS_MONTH)
    arguments = ["--text", message] if way == "text" else []
    sealed = run("seal", "--keychain", "chain.json", *arguments, stdin=f"{message}\n".encode())
    assert sealed.answer.keys() == {"ciphertext", "time_message_encrypted", "key_identifier"}
    opened = run("open", "--keychain", "chain.json", stdin=sealed.out.encode())
    assert (opened.code, opened.out, opened.err) == (0, f"{message}\n", "")


def test_a_message_that_is_no_text_comes_out_unchanged(run: Run) -> None:
    chain_from(THIS_MONTH)
    sealed = run("seal", "--keychain", "chain.json", stdin=b"\xff\x00").out.encode()
    assert run("open", "--keychain", "chain.json", stdin=sealed).out == "\udcff\x00\n"
    assert run("open", "--keychain", "chain.json", "--json", stdin=sealed).answer["message_base64"] == "/wA="


def test_sealed_messages_are_found_wherever_they_stand(run: Run) -> None:
    chain = chain_from(THIS_MONTH)
    phone = {"aps": {"alert": {"title": "New notification"}, "mutable-content": 1}, **fields("of APNs", chain)}
    message = {"token": "t", "data": fields("of FCM", chain), "android": {"priority": "HIGH"}}
    request = {"notifications": [{"id": "1", "notification": {"device": {}, **fields("of a request", chain)}}]}
    devices = {"token": [{"headers": {}, "payload": phone}, {"payload": message}]}
    Path("found.json").write_text(json.dumps([devices, {"no": ["ciphertext", 1, None]}, request]))
    ran = run("open", "found.json", "--keychain", "chain.json", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["message"] for line in lines] == ["of APNs", "of FCM", "of a request"]
    assert lines[0] | {"message": ""} == {"message": "", "time_message_encrypted": THIS_MONTH, "key_identifier": "id-1"}


def test_a_message_that_stays_shut_does_not_keep_the_others_shut(run: Run) -> None:
    chain = chain_from(THIS_MONTH)
    broken = fields("changed", chain)
    broken["ciphertext"] = (
        broken["ciphertext"][:100] + ("A" if broken["ciphertext"][100] != "A" else "B") + (broken["ciphertext"][101:])
    )
    both = json.dumps([broken, fields("untouched", chain)]).encode()
    ran = run("open", "--keychain", "chain.json", stdin=both)
    assert (ran.code, ran.out) == (1, "untouched\n")
    assert "changed since" in ran.err


def test_sealing_with_a_chain_of_last_month_takes_this_months_key_and_says_so(run: Run) -> None:
    old = chain_from(months_ago(1))
    sealed = run("seal", "--keychain", "chain.json", "--text", "x")
    assert sealed.answer["time_message_encrypted"] == THIS_MONTH
    assert "pushgate keys advance" in sealed.err
    assert KeyChain.restore(Path("chain.json").read_bytes()) == old
    late = fields("late", old)
    opened = run("open", "--keychain", "chain.json", stdin=json.dumps([late, sealed.answer]).encode())
    assert (opened.out, opened.err) == ("late\nx\n", "")


def test_a_key_that_the_file_still_has_opens_though_it_is_old(run: Run) -> None:
    chain = chain_from(months_ago(6))
    ran = run("open", "--keychain", "chain.json", stdin=json.dumps(fields("old", chain)).encode())
    assert ran.out == "old\n"


def test_a_chain_ahead_of_the_clock_seals_with_its_own_month(run: Run) -> None:
    run("new", "--iss-file", write_iss(), "--month", "2999-01", "--key-identifier", "id-1", "--out", "chain.json")
    sealed = run("seal", "--keychain", "chain.json", "--text", "for the phone").answer
    phone = KeyChain.begin(Secret.from_hex(ISS), key_identifier="id-1", month="2999-01")
    assert open_sealed(Sealed(**sealed), keys=phone.keys) == b"for the phone"


def test_who_reads_from_a_terminal_says_so(run: Run) -> None:
    chain_from(THIS_MONTH)
    assert "Ctrl-D" in run("seal", "--keychain", "chain.json", stdin=b"typed", terminal=True).err
    assert run("seal", "--keychain", "chain.json", stdin=b"piped").err == ""


def test_a_chain_that_others_can_read_is_used_with_a_warning(run: Run) -> None:
    chain_from(THIS_MONTH)
    Path("chain.json").chmod(0o640)
    ran = run("seal", "--keychain", "chain.json", "--text", "x")
    assert (ran.code, "chmod 600 chain.json" in ran.err) == (0, True)


# --- what goes wrong ---------------------------------------------------------------------------------------------

CHAIN = ("--keychain", "chain.json")


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["new"], b"", 2, "--out"),
        (["new", "--out", "x.json", "--month", "2026-13"], b"", 2, "--month: a month is written YYYY-MM"),
        (["new", "--out", "no/such/place.json"], b"", 1, "cannot write"),
        (["new", "--out", ".", "--force"], b"", 1, "cannot write"),
        (["new", "--out", "x.json", "--iss-file", "none.txt"], b"", 2, "No such file"),
        (["new", "--out", "x.json", "--iss-file", "latin1.txt"], b"", 2, "no text"),
        (["new", "--out", "x.json", "--iss-file", "short.txt"], b"", 2, "64 hexadecimal digits"),
        (["new", "--out", "x.json", "--iss", ISS], b"", 2, "--iss"),
        (["advance", *CHAIN, "--to", "2023-09"], b"", 2, "does not go back"),
        (["advance", *CHAIN, "--to", "2033-11"], b"", 2, "is the clock right?"),
        (["advance", *CHAIN, "--to", "11/2026"], b"", 2, "YYYY-MM"),
        (["advance", "--keychain", "none.json"], b"", 2, "pushgate keys new --out none.json"),
        (["seal", "--keychain", "."], b"", 2, "cannot read"),
        (["seal", "--keychain", "short.txt"], b"", 2, "not the state of a key chain"),
        (["seal", "--keychain", "ancient.json", "--text", "x"], b"", 2, "correct the clock"),
        (["seal", *CHAIN, "--text", "x" * 1019], b"", 2, "at most 1018 bytes"),
        (["seal", *CHAIN, "--text", "\udcff"], b"", 2, "not text"),
        (["open", *CHAIN], b"no JSON", 2, "stdin is not JSON"),
        (["open", *CHAIN], b"\xff", 2, "stdin is not JSON"),
        (["open", *CHAIN], b"[" * 100_000, 2, "stdin is not JSON"),
        (["open", "none.json", *CHAIN], b"", 2, "No such file"),
        (["open", *CHAIN], b'{"ciphertext": 1}', 1, "no sealed message"),
        (["open", *CHAIN], json.dumps({**dict.fromkeys(keys._SEALED_FIELDS, "x")}).encode(), 1, "cannot open it"),
    ],
)
def test_what_goes_wrong_is_told_with_the_next_step(
    run: Run, arguments: list[str], stdin: bytes, code: int, said: str
) -> None:
    chain_from("2023-10")
    chain_from("1999-01", "ancient.json")
    Path("short.txt").write_text("f2ca")
    Path("latin1.txt").write_bytes(b"\xfc")
    ran = run(*arguments, stdin=stdin)
    assert ran.code == code
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert not Path("x.json").exists()


def test_nothing_secret_is_ever_printed_unasked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHGATE_ISS", ISS)
    told = []
    for arguments in (
        ["new", "--month", "2023-10", "--out", "chain.json"],
        ["new", "--month", "2023-10", "--out", "chain.json"],
        ["new", "--month", "wrong", "--out", "chain.json", "--json"],
        ["advance", *CHAIN, "--to", "2024-01"],
        ["advance", *CHAIN, "--to", "2023-01", "--json"],
        ["seal", *CHAIN, "--text", "confidential"],
        ["seal", *CHAIN, "--text", "confidential" * 100],
        ["open", "chain.json", *CHAIN],
        ["open", *CHAIN],
    ):
        ran = run(*arguments, stdin=b'{"confidential')
        told.append(ran.out + ran.err)
    monkeypatch.setenv("PUSHGATE_ISS", ISS[:-1] + "x")
    told.append(run("new", "--out", "b.json").err)
    assert "PUSHGATE_ISS holds no ISS" in told[-1]
    for secret in (ISS, ISS[:-1], *SECRETS.values(), *KEYS.values(), "confidential"):
        assert secret not in "".join(told)
