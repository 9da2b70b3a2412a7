"""`pushgate.http2` alone: its pool asks a sink, in a process of its own, and nothing is around it.

    python -m bench.pool_alone PORT CA_FILE REQUESTS

One connection and 500 requests in flight, as h2load has them when it measures h; heads are put together as `provider`
does it. Says "ready" when it is warm, "done" when all are answered; waits for a line of input before each next step.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import uvloop

from bench.machine import H_BODY_BYTES
from pushgate.http2 import Pool, Target, encode_headers

IN_FLIGHT = 500
WARM = 5000
TIMEOUT_S = 30
ID = "123e4567-e89b-12d3-a456-426655440000"
TOKEN = "0" * 64


class Heads:
    """Heads of requests to APNs that differ in token and id."""

    def __init__(self, port: int) -> None:
        authority = f"localhost:{port}"
        start = encode_headers([(":method", "POST"), (":scheme", "https"), (":authority", authority)])
        path = encode_headers([(":path", f"/3/device/{TOKEN}")], never_indexed=(":path",))
        self._before_token = start + path[: -len(TOKEN)]
        kind = [("apns-topic", "org.example.health"), ("apns-push-type", "alert"), ("apns-priority", "10")]
        bearer = encode_headers([("authorization", "bearer " + "x" * 180)], never_indexed=("authorization",))
        self._before_id = encode_headers(kind) + bearer + encode_headers([("apns-id", ID)])[: -len(ID)]

    def make(self, number: int) -> bytes:
        """That of this request."""
        return b"".join((self._before_token, b"%064x" % number, self._before_id, ID[:24].encode(), b"%012x" % number))


async def run(port: int, ca_file: str, requests: int) -> None:
    """Ask so often. Raises `SystemExit` where one is not answered 200."""
    tls = ssl.create_default_context(cafile=ca_file)
    tls.set_alpn_protocols(["h2"])
    pool = Pool(Target("localhost", port, tls), max_connections=1)
    heads, body = Heads(port), b"b" * H_BODY_BYTES

    async def work(numbers: range) -> None:
        for number in numbers:
            response = await pool.request(heads.make(number), body, timeout_s=TIMEOUT_S)
            if response.status != 200:
                raise SystemExit(f"the sink answered {response.status}")

    for count, said in ((WARM, "ready"), (requests, "done")):
        await asyncio.gather(*(work(range(first, count, IN_FLIGHT)) for first in range(IN_FLIGHT)))
        print(said, flush=True)
        sys.stdin.readline()
    await pool.close(1)


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
