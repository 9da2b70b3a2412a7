"""`pushgate bench` against a real gateway between emulators, and against peers that answer badly."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pushgate import cli
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.ports import free_port
from tests.processes import Run, pushgate, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SUCCESS = b'{"results":[{"id":"0","status":"success","rejected":[]}],"summary":{}}'
FAILED = b'{"results":[{"id":"0","status":"failed","rejected":[],"error":"crowded"}],"summary":{}}'


async def bench(run: Run, *arguments: str) -> tuple[int, str, str]:
    """`pushgate bench` as a known caller, for a second; unless it says otherwise."""
    stage = run.stage
    usual = {
        "--url": run.url,
        "--seconds": "1",
        "--ca": str(stage.ca_file),
        "--cert": str(stage.caller_cert_file),
        "--key": str(stage.caller_key_file),
    }
    said = [word for name, value in usual.items() if name not in arguments for word in (name, value)]
    return await pushgate("bench", *said, *arguments)


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    async with staged(tmp_path) as run:
        await run.start()
        yield run


async def delivered(run: Run, count: int) -> None:
    """Wait until the emulators got so many; then no more may come."""
    async with asyncio.timeout(30):
        while len(run.got()) < count:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    assert len(run.got()) == count


async def test_what_it_counts_as_taken_arrives_each_at_a_device_of_its_own(run: Run) -> None:
    code, out, err = await bench(run, "--app", APNS_APP_ID, "--batch", "10", "--connections", "2", "--json")
    told = json.loads(out)
    assert (code, err.count("random")) == (0, 1)
    assert told["statuses"] == {"200": told["requests"]}
    assert told["results"] == {"success": told["taken"]}
    assert told["taken"] == told["requests"] * 10 > 0
    took = told["latency_ms"]
    assert 0 < took["p50"] <= took["p90"] <= took["p99"] <= took["max"]
    await delivered(run, told["taken"] + 1)  # one went before
    assert not any(pushkey.startswith(("dead", "busy")) for pushkey in run.got())


async def test_a_steady_rate_is_kept_and_told_in_words(run: Run) -> None:
    code, out, err = await bench(run, "--app", FCM_APP_ID, "--rate", "20", "--seconds", "2")
    first, answers, results, latency = out.splitlines()[:4]
    taken = int(first.split()[0])
    assert 30 <= taken <= 40  # a machine that stands still for a moment misses some
    assert (code, answers, results) == (0, f"answers  200: {taken}", f"results  success: {taken}"), err
    assert first.endswith(", 1 a request")
    assert latency.startswith("latency  p50 ")
    await delivered(run, taken + 1)


async def test_an_app_that_the_gateway_does_not_know_gets_no_load(run: Run) -> None:
    code, out, err = await bench(run, "--app", "org.example.unknown")
    assert (code, out) == (1, "")
    assert "no load: unknown app_id 'org.example.unknown'\n  -> pushgate send" in err
    assert not run.got()


# --- in this process, against a scripted peer --------------------------------------------------------------------


class Peer:
    """Answers the first request as a gateway does, and the others as it was told to, one after the other."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self.asked = 0
        self.port = free_port()
        self.bodies: list[dict[str, Any]] = []
        self._conversations: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        async with server:
            yield
            await asyncio.gather(*self._conversations)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.current_task()
        assert conversation is not None
        self._conversations.add(conversation)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(size)))
                answer = says(SUCCESS.replace(b'"0"', json.dumps(self.bodies[-1]["notifications"][0]["id"]).encode()))
                if self.asked:
                    answer = self._answers[min(self.asked, len(self._answers)) - 1]
                self.asked += 1
                if not answer:
                    break
                half = len(answer) // 2
                writer.write(answer[:half])
                await asyncio.sleep(0.01)
                writer.write(answer[half:])
                await asyncio.sleep(0.01)
        writer.close()


def says(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


async def against(peer: Peer, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """`pushgate bench` in this process: exit code, what `--json` says, and stderr."""
    out, err = io.StringIO(), io.StringIO()
    url = f"http://127.0.0.1:{peer.port}/push/v1/"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        command = ["bench", "--url", url, "--app", "org.example.app", "--seconds", "0.4", "--json", *arguments]
        code = await asyncio.to_thread(cli.run, command)
    return code, json.loads(out.getvalue() or "{}"), err.getvalue()


@pytest.mark.parametrize(
    ("answers", "statuses", "results"),
    [
        ([says(SUCCESS)], {"200"}, {"success"}),
        ([says(SUCCESS), says(FAILED)], {"200"}, {"success", "failed"}),
        ([says(SUCCESS, "200 OK", "Connection: close")], {"200"}, {"success"}),
        ([says(b"{}", "503 No", "Connection: close"), says(SUCCESS)], {"200", "503"}, {"success"}),
        ([says(b'{"hello":1}')], {"200"}, {"unreadable"}),
        ([b""], {"none"}, set()),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], {"none"}, set()),
    ],
)
async def test_every_kind_of_answer_is_counted_for_itself(
    answers: Sequence[bytes], statuses: set[str], results: set[str]
) -> None:
    peer = Peer(*answers)
    async with peer.serving():
        code, told, _ = await against(peer, "--connections", "2")
    assert (set(told["statuses"]), set(told["results"])) == (statuses, results)
    assert sum(told["statuses"].values()) == peer.asked - 1  # one went before
    assert code == (0 if statuses == {"200"} and results == {"success"} else 1)


async def test_no_two_notifications_are_the_same() -> None:
    peer = Peer(says(SUCCESS))
    async with peer.serving():
        await against(peer, "--batch", "3", "--connections", "2")
    items = [item["notification"] for body in peer.bodies for item in body["notifications"]]
    assert len(items) >= 7
    assert len({item["device"]["pushkey"] for item in items}) == len(items)
    assert len({item["ciphertext"] for item in items}) == len(items)
    assert {len(item["ciphertext"]) for item in items} == {1404}
    assert {len(item["device"]["pushkey"]) for item in items} == {64}
    assert [[item["id"] for item in body["notifications"]] for body in peer.bodies[1:]] == [["0", "1", "2"]] * (
        peer.asked - 1
    )


async def test_two_runs_have_no_pushkey_in_common() -> None:
    seen = []
    for _ in range(2):
        peer = Peer(says(SUCCESS))
        async with peer.serving():
            await against(peer)
        seen.append({body["notifications"][0]["notification"]["device"]["pushkey"] for body in peer.bodies})
    assert not seen[0] & seen[1]


async def test_a_rate_that_is_not_reached_is_told() -> None:
    peer = Peer(says(SUCCESS))
    async with peer.serving():
        _, told, _ = await against(peer, "--rate", "10000", "--connections", "1")
    assert told["seconds"] < 5
    assert "10,000 a second were not reached" in told["notes"]
    assert told["latency_ms"]["max"] > 300  # waiting for a connection counts


async def test_an_answer_that_never_comes_ends_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.commands.bench.ANSWERED_WITHIN_S", 0.5)
    peer = Peer(says(SUCCESS), b"HTTP/1.1 200 OK\r\n")
    async with peer.serving():
        code, told, _ = await against(peer, "--connections", "2")
    assert (code, told["statuses"]["none"]) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--app"),
        (["--app", "a", "--batch", "101"], "Must be <= 100"),
        (["--app", "a", "--seconds", "0"], "Must be > 0"),
        (["--app", "a", "--seconds", "601"], "Must be <= 600"),
        (["--app", "a", "--rate", "0"], "Must be > 0"),
        (["--app", "a", "--connections", "1001"], "Must be <= 1000"),
        (["--app", "a", "--url", "https://127.0.0.1:1/push/v1/", "--ca", "no-such-file"], "cannot send"),
    ],
)
def test_wrong_usage_is_told_and_nothing_tried(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], said: str
) -> None:
    code = cli.run(["bench", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err


async def test_nobody_there_is_told_before_the_load() -> None:
    code, told, err = await against(Peer())
    assert (code, told) == (1, {})
    assert "no load: the gateway is unavailable" in err


async def test_a_terminal_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err, out = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    peer = Peer(says(SUCCESS))
    async with peer.serving():
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            url = f"http://127.0.0.1:{peer.port}/push/v1/"
            command = ["bench", "--url", url, "--app", "org.example.app", "--seconds", "0.7"]
            code = await asyncio.to_thread(cli.run, command)
    assert code == 0
    assert " a second" in err.getvalue()
    assert "taken in" in out.getvalue()
