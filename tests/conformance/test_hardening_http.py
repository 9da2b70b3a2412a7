"""Nobody can make the gateway take one message for two, two for one, or a body for a request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import pytest

from tests.conformance import hardening_framing as framing
from tests.conformance import hardening_requests as requests
from tests.conformance.hardening import Case, Seen, Watch, Way, fault_of, faults

TABLES: Mapping[str, Callable[[], Iterator[Case]]] = {
    "lengths": framing.doubtful_lengths,
    "chunks": framing.doubtful_chunks,
    "lines": framing.broken_lines,
    "sound": framing.sound,
    "methods": requests.methods,
    "targets": requests.targets,
    "packed": requests.compressed,
}


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here reads so slowly."""
    monkeypatch.setattr("pushgate.server.LINGER_S", 0.1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("table", TABLES)
async def test_one_message_is_one_request_whoever_reads_it(table: str, way: Way) -> None:
    assert await faults(TABLES[table](), way) == {}


def test_every_case_has_a_name_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {name: len(list(table())) for name, table in TABLES.items()}
    names = {case.name for table in TABLES.values() for case in table()}
    assert len(names) == sum(sizes.values())
    with capsys.disabled():
        print(f"\nmessages sent in {len(Way)} ways each: {len(names)} ({sizes})")


class Naive:
    """A server as people write it on a Sunday: it looks for a length, and takes what follows for the next request."""

    def __init__(self) -> None:
        self.watch = Watch()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\n\r\n")
                if (line := re.match(rb"\s*(\w+)\s+(\S+)", head)) is None:
                    break
                said = re.search(rb"(?i)content-length\W*(\d+)", head)
                await reader.readexactly(int(said[1]) if said else 0)
                seen = Seen(line[1].decode(), line[2].decode("latin-1"), b"X-Stowaway" in head)
                self.watch.seen[port].append(seen)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                if seen.path == "/after":
                    break
        writer.close()


async def test_the_cases_find_out_a_server_that_is_not_careful() -> None:
    naive = Naive()
    async with await asyncio.start_server(naive.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        cases = [*framing.doubtful_lengths(), *framing.doubtful_chunks(), *framing.broken_lines()]
        found = await asyncio.gather(*(fault_of(port, naive.watch, case, Way.WHOLE) for case in cases[:120]))
    assert sum("a body was taken for a request" in str(fault) for fault in found) > 20
    assert sum(fault is not None for fault in found) > 90
