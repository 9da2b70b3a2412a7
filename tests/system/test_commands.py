"""`pushgate send` and `pushgate keys` as a person uses them, and the reference page of all commands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cyclopts import App
from msgspec import Struct

from pushgate import cli
from pushgate.client import KeyChain
from pushgate.commands.send import Outcome
from pushgate.provider import apns, fcm
from pushgate.stage import APNS_APP_ID, FCM_APP_ID

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
STARTS_WITHIN_S = 20.0
PUSHKEY = f"{7:064x}"


class Ran(Struct, frozen=True):
    """What a command did."""

    code: int
    out: str
    err: str


def until(check: Callable[[], Any]) -> Any:
    """What the check gives as soon as that is something."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not (found := check()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)
    return found


def pushgate(*arguments: str, stdin: str = "", **environment: str) -> Ran:
    """Run a command to its end, as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "pushgate", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def shell(line: str) -> str:
    """What a line prints that was copied into a shell. It must do its work."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


class Trial(Struct, frozen=True):
    """Running emulators and a gateway in front of them, each a process."""

    told: Mapping[str, Any]
    """What `emulate --json` said."""
    port: int
    management_port: int
    folder: Path

    @property
    def gateway(self) -> list[str]:
        return ["--url", f"https://localhost:{self.port}/push/v1/", "--ca-file", self.told["ca_file"]]

    @property
    def caller(self) -> list[str]:
        return ["--cert-file", self.told["caller_cert_file"], "--key-file", self.told["caller_key_file"]]

    def send(self, *arguments: str, app_id: str = APNS_APP_ID, pushkey: str = PUSHKEY) -> Ran:
        """`pushgate send`, the pushkey by the environment. Nothing that it prints has the pushkey in it."""
        ran = pushgate("send", *self.gateway, *self.caller, "--app-id", app_id, *arguments, PUSHGATE_PUSHKEY=pushkey)
        assert pushkey not in ran.out + ran.err
        return ran

    def got(self, pushkey: str, app_id: str = APNS_APP_ID) -> Any:
        """The newest message of a phone, as soon as there is one."""
        port = self.told["apns_port" if app_id == APNS_APP_ID else "fcm_port"]
        tls = ssl.create_default_context(cafile=self.told["ca_file"])
        with httpx.Client(verify=tls, http1=False, http2=True) as http:
            return until(lambda: http.get(f"https://localhost:{port}/devices/{pushkey}").json())[-1]


@contextlib.contextmanager
def process(*arguments: str, out: Path, **environment: str) -> Iterator[None]:
    """A command that runs on, its output in a file. It must end well when it is asked to."""
    with (
        out.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", "pushgate", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ) as running,
    ):
        try:
            yield
        finally:
            running.terminate()
            try:
                assert running.wait(timeout=20) == 0, out.read_text()
            finally:
                running.kill()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    emulated, served = folder / "emulate.txt", folder / "serve.txt"
    ports = ("--apns-port", "0", "--fcm-port", "0")
    with process("emulate", *ports, "--folder", str(folder / "stage"), "--json", out=emulated):
        told = json.loads(until(lambda: emulated.read_text().partition("\n")[0]))
        with process(
            "serve",
            "--config",
            told["config_file"],
            out=served,
            PUSHGATE_API__LISTEN="127.0.0.1:0",
            PUSHGATE_MANAGEMENT__LISTEN="127.0.0.1:0",
        ):
            line = until(lambda: re.search(r'.*"serving".*\n', served.read_text()))
            serving = json.loads(line[0])
            yield Trial(told, serving["port"], serving["management_port"], folder)


# --- real processes ----------------------------------------------------------------------------------------------


def test_a_plain_notification_arrives_as_it_was_asked_for(trial: Trial) -> None:
    ran = trial.send("--text", "Rounds at nine", "--title", "Ward 3", "--unread", "2", "--low")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("taken: the gateway has it on disk. The provider has not been asked yet\n  -> ")
    got = trial.got(PUSHKEY)
    assert got["headers"]["apns-priority"] == "5"
    assert got["payload"]["aps"]["alert"]["title"] == "Ward 3"
    assert got["payload"]["aps"]["badge"] == 2
    assert got["payload"]["content"]["body"] == "Rounds at nine"


def test_send_names_the_request_and_explain_knows_it(trial: Trial) -> None:
    environ = {"PUSHGATE_MANAGEMENT__LISTEN": f"127.0.0.1:{trial.management_port}"}
    ran = trial.send("--text", "Rounds at ten", pushkey=f"{7:064x}")
    step = re.search(
        r"^  request (\S+)\n  -> what became of it, at the gateway: pushgate (explain \1) --config FILE$", ran.out, re.M
    )
    assert step is not None, ran.out
    config = ["--config", trial.told["config_file"]]
    told = until(
        lambda: "accepted by the provider" in (told := pushgate(*step[2].split(), *config, **environ)).out and told
    )
    assert told.out.startswith(f"request {step[1]}\n")
    machine = json.loads(trial.send("--json", app_id="org.example.unknown").out)
    again = pushgate("explain", machine["request_id"], *config, **environ)
    assert "no delivery came of it" in again.out


@pytest.mark.parametrize("sent", ["a b", "x" * 129, "", "\N{BELL}"])
def test_a_request_id_that_is_none_is_not_shown(
    peer: Callable[..., Peer], capsys: pytest.CaptureFixture[str], sent: str
) -> None:
    port = peer(says("503 No", {}, f"X-Request-Id: {sent}")).port
    ran = here(capsys, "--url", f"http://127.0.0.1:{port}/push/v1/", "--pushkey", PUSHKEY)
    assert (ran.code, "request " in ran.err) == (1, False)


def test_two_sends_are_two_notifications(trial: Trial) -> None:
    pushkey = f"{8:064x}"
    for text in ("one", "two"):
        trial.send("--text", text, pushkey=pushkey)
        while trial.got(pushkey)["payload"]["content"]["body"] != text:
            time.sleep(0.02)


def test_a_badge_arrives_without_an_alert(trial: Trial) -> None:
    pushkey = f"{9:064x}"
    assert trial.send("--badge-only", "--unread", "5", pushkey=pushkey).code == 0
    assert trial.got(pushkey)["payload"]["aps"] == {"badge": 5}


def test_a_sealed_notification_is_opened_with_the_keys_of_its_phone(trial: Trial) -> None:
    chain = str(trial.folder / "phone.json")
    made = pushgate("keys", "new", "--out", chain, "--json")
    assert json.loads(made.out)["month"] == KeyChain.restore(Path(chain).read_bytes()).newest.month
    message = '{"ChannelId":"erp.task.activate"}'
    ran = trial.send("--sealed", "--keychain", chain, "--text", message, "--json", app_id=FCM_APP_ID, pushkey="fcm-1")
    assert (ran.code, json.loads(ran.out)["outcome"]) == (0, "taken")
    got = trial.got("fcm-1", FCM_APP_ID)
    assert message not in json.dumps(got)
    opened = pushgate("keys", "open", "--keychain", chain, stdin=json.dumps(got))
    assert (opened.code, opened.out, opened.err) == (0, f"{message}\n", "")


def test_keys_seal_pipes_into_keys_open(trial: Trial) -> None:
    chain = str(trial.folder / "pipe.json")
    assert pushgate("keys", "new", "--out", chain).code == 0
    sealed = pushgate("keys", "seal", "--keychain", chain, stdin="through a pipe\n")
    opened = pushgate("keys", "open", "--keychain", chain, stdin=sealed.out)
    assert (opened.code, opened.out) == (0, "through a pipe\n")


def test_a_dead_pushkey_is_rejected_when_the_provider_has_said_so(trial: Trial) -> None:
    dead = "dead" + "0" * 60
    assert trial.send(pushkey=dead).code == 0
    ran = until(lambda: (again := trial.send(pushkey=dead)).code and again)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("rejected: the provider has called this pushkey dead\n  -> delete this registration")


def test_an_unknown_app_is_failed_and_says_nothing_against_the_pushkey(trial: Trial) -> None:
    ran = trial.send(app_id="org.example.unknown")
    assert ran.code == 1
    assert ran.out.startswith("failed: unknown app_id 'org.example.unknown'. Nothing was kept of it\n")
    assert "The pushkey is not to blame" in ran.out


def test_a_pushkey_of_impossible_shape_is_failed_and_to_be_corrected(trial: Trial) -> None:
    ran = trial.send(pushkey="not-hexadecimal")
    assert ran.out.startswith("failed: app_id 'org.example.health.apns': the pushkey is not a device token. Nothing")
    assert "-> correct the pushkey" in ran.out
    assert "not to blame" not in ran.out


@pytest.mark.parametrize("arguments", [("demo", "--keep"), ("emulate", "--apns-port", "0", "--fcm-port", "0")])
def test_what_sigterm_ends_leaves_no_keys_behind(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    out = tmp_path / "out.txt"
    with process(*arguments, out=out, TMPDIR=str(tmp_path)):
        until(lambda: "Ctrl-C" in out.read_text())
        assert [*tmp_path.glob("pushgate-*/*.key")]
    assert [each.name for each in tmp_path.iterdir()] == ["out.txt"]


def test_what_the_demo_prints_works_more_than_once(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with process("demo", "--keep", out=out, TMPDIR=str(tmp_path)):
        until(lambda: "Metrics:" in out.read_text())
        send, apple, google = re.findall(r"^curl .*$", out.read_text(), re.M)
        assert [shell(send), shell(send)] == ['{"rejected":[]}'] * 2
        until(lambda: shell(apple).count('"body": "Hello"') == 2)
        assert "Rounds at nine" in shell(google)


# --- every answer there is, in this process against a scripted peer ----------------------------------------------

HANG, CLOSE = b"hang", b"close"
ANY_ID = b"I" * 36
"""In an answer: the id that was sent, which is as long."""


class Peer:
    """Says to every request what it was told to, over TLS or not."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None) -> None:
        self._answer = answer
        self._tls = tls
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(5)
                with contextlib.suppress(OSError), connection:
                    self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with connection:
            try:
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
            except ssl.SSLError:
                connection.shutdown(socket.SHUT_WR)  # a reset would overtake the alert
                while connection.recv(4096):
                    pass
                return
            lines = connection.makefile("rb")
            head = b"".join(iter(lines.readline, b"\r\n")).lower()
            found = re.search(rb"content-length: (\d+)", head)
            assert found is not None
            body = json.loads(lines.read(int(found[1])))
            if self._answer == HANG:
                self._ended.wait(5)
            elif self._answer != CLOSE:
                connection.sendall(self._answer.replace(ANY_ID, body["notifications"][0]["id"].encode()))


def says(status: str, body: object, *headers: str) -> bytes:
    content = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + content


def result(**fields: object) -> bytes:
    """A 200 with one result."""
    return says("200 OK", {"results": [{"id": ANY_ID.decode(), "rejected": [], **fields}]})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def peer(authority: trustme.CA) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def starting(answer: bytes, tls: ssl.SSLContext | None = None) -> Peer:
        peers.append(Peer(answer, tls))
        return peers[-1]

    yield starting
    for each in peers:
        each.close()


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """`pushgate send` in this process."""
    code = cli.run(["send", "--app-id", "org.example.app", *arguments])
    out, err = capsys.readouterr()
    return Ran(code, out, err)


@pytest.mark.parametrize(
    ("answer", "code", "said", "next_step"),
    [
        (result(status="success"), 0, "taken: the gateway has it on disk", "look at the phone"),
        (result(status="success", error="but late"), 0, "not been asked yet (but late)", "look at the phone"),
        (result(status="success", rejected=[PUSHKEY]), 1, "rejected: ", "delete this registration"),
        (result(status="failed", rejected=[PUSHKEY], error="dead"), 1, "rejected: ", "delete this registration"),
        (result(status="failed"), 1, "failed: the gateway does not say why. Nothing", "mend this at the gateway"),
        (result(status="failed", error=f"no {PUSHKEY}\x1b[2J"), 1, "failed: no [pushkey]?[2J. Noth", "not to blame"),
        (result(status="failed", error="x" * 9999), 1, "x" * 500 + "…. Nothing", "not to blame"),
        *(
            (result(status="failed", error=f"app_id 'a': {words}"), 1, f"failed: app_id 'a': {words}", next_step)
            for words, next_step in (
                (apns.NOT_A_TOKEN, "correct the pushkey, or token_encoding of the app"),
                (fcm.NOT_A_TOKEN, "correct the pushkey, or token_encoding of the app"),
                (apns.TOO_LARGE, "give a shorter --text"),
                (fcm.TOO_LARGE, "give a shorter --text"),
            )
        ),
        (result(status="failed", error="app_id 'a' is not allowed for this caller"), 1, "failed: ", "[[clients]]"),
        (says("401 No", {"error": "?"}), 1, "refused: 401 ?", "say who you are: --cert-file"),
        (says("404 No", {}), 1, "refused: 404\n", "correct --url: it ends in /push/v1/"),
        (
            says("400 No", {"error": "Invalid data format", "details": {"path": "$.x", "reason": "too odd"}}),
            1,
            "refused: 400 Invalid data format: $.x: too odd",
            "correct what it names",
        ),
        (says("413 No", {"error": "too large"}), 1, "refused: 413 too large", "a text that is too long"),
        (says("302 No", {}, "Location: /"), 1, "refused: 302", "is that a Push Gateway?"),
        (says("429 No", {}, "Retry-After: 7"), 1, "unavailable: the gateway cannot take it now (429)", "after 7 s"),
        (
            says("503 No", {}, "X-Request-Id: complaint-7"),
            1,
            "unavailable: the gateway cannot take it now (503)",
            "the gateway's log says why\n  request complaint-7",
        ),
        (says("200 OK", {"hello": 1}), 1, "unclear: the gateway's answer cannot be read", "find out who answers"),
        (CLOSE, 1, "unavailable: the connection ended without an answer", "--url https://"),
        (HANG, 1, "unavailable: no answer within 0.3 s", "--timeout-s"),
    ],
)
def test_every_answer_is_said_in_words_with_a_next_step(
    peer: Callable[..., Peer],
    capsys: pytest.CaptureFixture[str],
    answer: bytes,
    code: int,
    said: str,
    next_step: str,
) -> None:
    url = f"http://127.0.0.1:{peer(answer).port}/push/v1/"
    ran = here(capsys, "--url", url, "--pushkey", PUSHKEY, "--timeout-s", "0.3")
    assert ran.code == code
    assert said in ran.out + ran.err
    assert next_step in (ran.out + ran.err).partition("\n  -> ")[2]
    assert PUSHKEY not in ran.out + ran.err
    machine = here(capsys, "--url", url, "--pushkey", PUSHKEY, "--timeout-s", "0.3", "--json")
    assert (machine.code, machine.err) == (code, "")
    assert json.loads(machine.out).keys() == {"outcome", "said", "next_step", "request_id"}


@pytest.mark.parametrize(
    ("name", "arguments", "said", "next_step"),
    [
        ("127.0.0.1", [], "untrusted: the gateway's certificate is not trusted here", "give --ca-file"),
        ("127.0.0.1", ["--ca-file", "other.pem"], "untrusted: the gateway's", "is other.pem the authority"),
        ("example.org", ["--ca-file", "ca.pem"], "mismatch", "use a name that the certificate is for in --url"),
        (
            "127.0.0.1",
            ["--ca-file", "ca.pem", "--cert-file", "foreign.pem"],
            "untrusted: the gateway does not accept our certificate",
            "give a --cert-file from an authority in the gateway's client_ca_file",
        ),
        (
            "127.0.0.1",
            ["--ca-file", "ca.pem", "--cert-file", "ours.pem"],
            "refused: 401 sealed only",
            "send a sealed one: --sealed",
        ),
        (
            "127.0.0.1",
            ["--ca-file", "ca.pem", "--cert-file", "ours.pem", "--sealed", "--keychain", "chain.json"],
            "refused: 401 sealed only",
            "name this certificate in [[clients]]",
        ),
    ],
)
def test_what_tls_says_is_said_in_words_with_a_next_step(
    peer: Callable[..., Peer],
    authority: trustme.CA,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: Sequence[str],
    said: str,
    next_step: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    stranger = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    stranger.cert_pem.write_to_path("other.pem")
    authority.issue_cert("erp.example.org").private_key_and_cert_chain_pem.write_to_path("ours.pem")
    stranger.issue_cert("erp.example.org").private_key_and_cert_chain_pem.write_to_path("foreign.pem")
    assert cli.run(["keys", "new", "--out", "chain.json"]) == 0
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(tls)
    authority.issue_cert(name).configure_cert(tls)
    port = peer(says("401 No", {"error": "sealed only"}), tls).port
    url = f"https://127.0.0.1:{port}/push/v1/"
    ran = here(capsys, "--url", url, "--pushkey", PUSHKEY, *arguments)
    assert ran.code == 1
    assert said in ran.err.partition("\n")[0]
    assert next_step in ran.err.partition("\n")[2]


def test_a_gateway_that_knows_nobody_without_a_certificate_says_so(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = here(capsys, *trial.gateway, "--pushkey", PUSHKEY)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("refused: 401 Missing or invalid mutual TLS (mTLS) certificate.\n  -> say who you are: ")


def test_https_to_a_port_without_tls_is_told(peer: Callable[..., Peer], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/push/v1/"
        ran = here(capsys, "--url", url, "--pushkey", PUSHKEY)
        thread.join()
    assert (ran.code, "write --url http://" in ran.err) == (1, True)


def test_nobody_there_and_no_such_host_are_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/push/v1/"
        ran = here(capsys, "--url", url, "--pushkey", PUSHKEY)
    assert ran.err == f"unavailable: nobody listens at {url}\n  -> " + (
        "is it running? pushgate serve --config FILE; its log names the port\n"
    )

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    ran = here(capsys, "--url", "https://gateway.example.org/push/v1/", "--pushkey", PUSHKEY)
    assert (ran.code, ran.err.partition("\n")[0]) == (1, "unavailable: there is no host of this name")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no pushkey"),
        (["--pushkey", ""], "there is no pushkey"),
        (["--pushkey-file", "empty.txt"], "there is no pushkey"),
        (["--pushkey-file", "none.txt"], "cannot read none.txt: No such file"),
        (["--pushkey-file", "binary"], "cannot read binary: not UTF-8"),
        (["--pushkey-file", "key.txt", "--pushkey", "x"], "contradict each other"),
        (["--pushkey", "x", "--sealed"], "--sealed needs --keychain\n  -> pushgate keys new --out FILE"),
        (["--pushkey", "x", "--keychain", "chain.json"], "say --sealed too"),
        (["--pushkey", "x", "--sealed", "--keychain", "c", "--badge-only", "--unread", "1"], "a badge is not sealed"),
        (["--pushkey", "x", "--sealed", "--keychain", "c", "--title", "t"], "put it in --text"),
        (["--pushkey", "x", "--badge-only"], "--badge-only needs a number\n  -> say --unread 3\n"),
        (["--pushkey", "x", "--badge-only", "--unread", "1", "--text", "t"], "leave out --text and --title"),
        (["--pushkey", "x", "--badge-only", "--unread", "1", "--title", "t"], "leave out --text and --title"),
        (["--pushkey", "x", "--unread", "-1"], "Must be >= 0"),
        (["--pushkey", "x", "--timeout-s", "0"], "Must be > 0"),
        (["--pushkey", "x", "--sealed", "--keychain", "c"], "no such file: c"),
        (["--pushkey", "x", "--sealed", "--keychain", "chain.json", "--text", "x" * 1019], "--text: a message has at"),
        (["--pushkey", "x", "--text", "\udcff"], "cannot be written as JSON"),
        (["--pushkey", "x", "--url", "https://example.org/"], "cannot send: --url ends in /push/v1/"),
        (["--pushkey", "x", "--url", "http://example.org/push/v1/"], "use https"),
        (["--pushkey", "x", "--cert-file", "c"], "certificate is of no use over plain http"),
        (
            ["--pushkey", "x", "--url", "https://example.org/push/v1/", "--cert-file", "x/ca_file"],
            "load --cert-file x/ca_file with",
        ),
        (
            ["--pushkey", "x", "--url", "https://example.org/push/v1/", "--key-file", "k"],
            "a --key-file needs its --cert",
        ),
    ],
)
def test_wrong_usage_of_send_is_told_with_the_next_step(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUSHGATE_PUSHKEY", raising=False)
    Path("empty.txt").write_text("\n")
    Path("key.txt").write_text("x\n")
    Path("binary").write_bytes(b"\xff")
    assert cli.run(["keys", "new", "--out", "chain.json"]) == 0
    capsys.readouterr()
    ran = here(capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize("source", ["environment", "file", "file before environment", "flag before environment"])
def test_the_pushkey_comes_from_where_it_was_put(
    peer: Callable[..., Peer],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """Only the pushkey that was sent can come back as rejected."""
    (tmp_path / "key.txt").write_text(f"{PUSHKEY}\n")
    monkeypatch.setenv("PUSHGATE_PUSHKEY", PUSHKEY if source == "environment" else "another")
    arguments = {"file": ["--pushkey-file", str(tmp_path / "key.txt")], "flag": ["--pushkey", PUSHKEY]}
    url = f"http://127.0.0.1:{peer(result(status='success', rejected=[PUSHKEY])).port}/push/v1/"
    ran = here(capsys, "--url", url, *arguments.get(source.split()[0], []))
    assert ran.out.startswith("rejected")


# --- the reference page ------------------------------------------------------------------------------------------


def commands(app: App, path: tuple[str, ...] = ("pushgate",)) -> Iterator[tuple[str, App]]:
    """Every command by its full name, groups of commands too."""
    for name, command in app.resolved_commands().items():
        if not name.startswith("-"):
            yield " ".join((*path, name)), command
            yield from commands(command, (*path, name))


def options(command: App) -> Iterator[str]:
    """A line of the page for each option."""
    for each in command.assemble_argument_collection() if command.default_command is not None else ():
        if not each.show:
            continue
        names = ", ".join(f"`{name}`" for name in each.names if name not in each.negatives)
        facts = ["required"] if each.required else []
        facts += [" or ".join(f"`{choice}`" for choice in each.get_choices() or ())]
        if not each.required and each.field_info.default not in (None, False):
            facts.append(f"default `{each.field_info.default}`")
        stated = f" ({'; '.join(filter(None, facts))})" if any(facts) else ""
        yield f"- {names}{stated}: {each.parameter.help}"


def plain(text: str) -> str:
    """In one line, with single spaces."""
    return " ".join(text.split())


def test_the_reference_has_every_command_with_every_option_and_no_other() -> None:
    sections = dict(re.findall(r"^## `(pushgate [^`]+)`\n(.*?)(?=^## |\Z)", REFERENCE.read_text(), re.M | re.S))
    known = dict(commands(cli.app))
    assert [*sections] == [*known]
    for name, command in known.items():
        written = [plain(item) for item in re.findall(r"^(- `.*?)(?=\n- `|\n\n|\Z)", sections[name], re.M | re.S)]
        assert written == [plain(line) for line in options(command)], (
            f"write it anew:\n{chr(10).join(options(command))}"
        )
        assert plain(command.help) in plain(sections[name]), f"write it anew:\n{command.help}"


def test_the_reference_has_every_outcome_of_send_with_its_exit_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([01]) \|$", REFERENCE.read_text(), re.M)
    assert rows == [(outcome.value, "0" if outcome is Outcome.TAKEN else "1") for outcome in Outcome]


def test_the_reference_has_every_variable_that_the_commands_read() -> None:
    page = REFERENCE.read_text()
    for name in ("PUSHGATE_PUSHKEY", "PUSHGATE_ISS"):
        assert f"`{name}`" in page
