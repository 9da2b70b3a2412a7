"""Ten thousand random and mutated bodies: each gets an answer of the contract in time, and nothing of it stays."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api import BATCH, NOTIFY, SEALED, Api, serving
from tests.samples import APNS_APP, SECRET_MARK, batch, body, encrypted, plain

BODIES = 10_000
CONNECTIONS = 8
SEED = 20261122
INSERTS = [b"null", b"[[[[", b"{}", b'"\\ud800"', b"\xff", b"1e400", b"-9223372036854775809", b'\\"', b"\x00", b"NaN"]


def hostile(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies without end: noise, and valid requests with something wrong in them."""
    seeds = [
        (NOTIFY, body({"notification": plain()})),
        (BATCH, body(batch(plain(), plain(event_id="$2")))),
        (SEALED, body(batch(encrypted(), encrypted()))),
    ]
    while True:
        path, valid = rng.choice(seeds)
        match rng.randrange(6):
            case 0:
                yield path, rng.randbytes(rng.randrange(200))
            case 1:
                yield path, valid[: rng.randrange(len(valid))]
            case 2:
                changed = bytearray(valid)
                for _ in range(rng.randrange(1, 5)):
                    changed[rng.randrange(len(changed))] = rng.randrange(256)
                yield path, bytes(changed)
            case 3:
                at = rng.randrange(len(valid))
                yield path, valid[:at] + rng.choice(INSERTS) + valid[at:]
            case 4:
                start, end = sorted(rng.choices(range(len(valid)), k=2))
                yield path, valid[:end] + valid[start:]
            case _:
                yield path, rng.choice([b"[", b'{"a":', b'"']) * rng.randrange(2000)


async def ask_all(api: Api, requests: Iterator[tuple[str, bytes]], statuses: Counter[int]) -> float:
    """Send them one after the other over one connection. Returns the longest wait for an answer, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    longest = 0.0
    for path, sent in requests:
        started = time.perf_counter()
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(sent)) + sent)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        answer = await reader.readexactly(int(fields[b"content-length"]))
        longest = max(longest, time.perf_counter() - started)
        status = int(head[9:12])
        statuses[status] += 1
        assert fields[b"content-type"] == b"application/json"
        assert isinstance(json.loads(answer), dict)
        assert status == 200 or SECRET_MARK.encode() not in answer
    writer.close()
    return longest


def memory_kb() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.timeout(120)
async def test_any_body_is_answered_by_the_contract_in_time_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    statuses: Counter[int] = Counter()
    async with serving() as api:

        async def empty_the_spool() -> None:
            while True:
                await api.spool.ack(await api.spool.lease(APNS_APP, 1000))

        emptying = asyncio.create_task(empty_the_spool())
        requests = hostile(random.Random(SEED))
        await ask_all(api, itertools.islice(requests, 500), Counter())
        before_kb = memory_kb()
        shares = [itertools.islice(requests, BODIES // CONNECTIONS) for _ in range(CONNECTIONS)]
        waits = await asyncio.gather(*(ask_all(api, share, statuses) for share in shares))
        after_kb = memory_kb()
        emptying.cancel()
    assert sum(statuses.values()) == BODIES
    assert set(statuses) == {200, 400}
    assert max(waits) < 1
    assert after_kb - before_kb < 20_000
    assert "Traceback" not in "".join(capsys.readouterr())
