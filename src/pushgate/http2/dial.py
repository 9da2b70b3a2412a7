"""Ways to a peer: addresses one after the other, through a proxy where there is one, then TLS."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

from pushgate.http2.target import Proxy, Target

NEXT_ADDRESS_S = 0.25
"""How long an address is alone in the race before the next one joins (RFC 8305 §5)."""
PROXY_ANSWER_BYTES = 16_384
_PROXY_SAYS_YES = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")

Address = tuple[socket.AddressFamily, Any]
"""Family and socket address, as getaddrinfo gives them."""


async def dial(target: Target, protocol: asyncio.Protocol, *, linger_s: float, turn: int = 0) -> None:
    """Connect `protocol` to the target over TLS. Raises OSError (ssl.SSLError among them).

    The name is resolved anew at each call: providers move their traffic by DNS. All its addresses are tried until one
    accepts, from another one on with each `turn`: one that accepts and then leads to nothing must not hold up the rest.
    A dial that is cancelled, at whatever moment, leaves nothing open. `protocol` may be given data, and lose
    its connection, before its `connection_made` is called.
    """
    loop = asyncio.get_running_loop()
    proxy = target.proxy
    host, port = (proxy.host, proxy.port) if proxy is not None else (target.host, target.port)
    addresses = await _resolve(host, port)
    turn %= max(1, len(addresses))
    sock = await _connect(addresses[turn:] + addresses[:turn])
    try:
        if proxy is not None:
            await _tunnel(sock, proxy, target)
        plain, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    # Not create_connection(ssl=...): cancelled at the wrong moment it leaves its transport open on asyncio.
    try:
        transport = await loop.start_tls(
            plain,
            protocol,
            target.tls,
            server_hostname=target.server_name or target.host,
            ssl_shutdown_timeout=linger_s,
        )
    except BaseException:
        plain.abort()
        raise
    if transport is None:
        raise ConnectionResetError("lost right after the handshake")
    protocol.connection_made(transport)


async def _resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host in the resolver's order, the families taking turns (RFC 8305 §4)."""
    found = await _lookup(host, port)
    addresses: list[Address] = [(family, address) for family, _, _, _, address in found]
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    turns: list[Address] = []
    while first or second:
        turns += first[:1] + second[:1]
        first, second = first[1:], second[1:]
    return turns


async def _lookup(host: str, port: int) -> list[Any]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connect(addresses: list[Address]) -> socket.socket:
    """The first address that answers. Each has a head start over the next one; none can hold the others up."""
    racing: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError("no address")
    waiting = list(addresses)
    try:
        while waiting or racing:
            if waiting:
                racing.add(asyncio.create_task(_connect_to(waiting.pop(0))))
            timeout = NEXT_ADDRESS_S if waiting else None
            done, _ = await asyncio.wait(racing, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                racing.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                failure = error
    finally:
        for task in racing:
            task.add_done_callback(_close_late)
            task.cancel()
    raise failure


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """End an attempt that lost the race, also where it had just got through."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect_to(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _tunnel(sock: socket.socket, proxy: Proxy, target: Target) -> None:
    """Have the proxy open a tunnel to the target. Raises OSError where it does not."""
    loop = asyncio.get_running_loop()
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"CONNECT {host}:{target.port} HTTP/1.1", f"Host: {host}:{target.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        # Nothing of the target can follow the proxy's answer: in TLS the client speaks first.
        more = await loop.sock_recv(sock, PROXY_ANSWER_BYTES)
        answer += more
        if not more or len(answer) > PROXY_ANSWER_BYTES:
            raise ConnectionError("the proxy gave no answer")
    if _PROXY_SAYS_YES.match(answer) is None:
        raise ConnectionRefusedError("the proxy opened no tunnel")
