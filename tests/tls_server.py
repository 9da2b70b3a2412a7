"""A listener with mutual TLS for tests: it answers with the name of the caller, or 401, on either event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pushgate import callers, revocation
from pushgate.callers import Entry
from pushgate.errors import RequestError
from pushgate.listener import Listener
from pushgate.server import Identify
from pushgate.tls import Files, Tls, server_tls
from tests.certificates import Authority, Leaf

WAYS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "pyopenssl": uvloop.new_event_loop,
}
"""How TLS can be done: by the event loops (the gateway runs on uvloop, most tests on asyncio's own), by pyOpenSSL."""


def run_on(way: str, main: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end on the loop of one of `WAYS`."""
    if way == "pyopenssl" and find_spec("OpenSSL") is None:
        main.close()
        pytest.skip("pyOpenSSL is not installed")
    with asyncio.Runner(loop_factory=WAYS[way]) as runner:
        runner.run(main)


class Served:
    """What runs, and what may be changed of it."""

    def __init__(self, identify: Identify, folder: Path) -> None:
        self.identify = identify
        self.folder = folder
        self.seen: list[str] = []
        self.events: list[str] = []
        self.listener: Listener

    @property
    def port(self) -> int:
        return self.listener.port

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            name, status = self.identify(scope).name, 200
            self.seen.append(name)
        except RequestError as refused:
            name, status = "", refused.status
        body = name.encode()
        if scope["path"] == "/echo":
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(
    folder: Path,
    authority: Authority,
    *,
    clients: Sequence[Entry] = (),
    certificates: Sequence[Leaf] = (),
    trusted: bytes = b"",
    lists: bytes = b"",
    clock: Callable[[], float] | None = None,
    most: int | None = None,
    way: str = "asyncio",
) -> AsyncIterator[Served]:
    """A listener at `localhost`. `trusted` (PEM) in place of the authority's own certificate, `lists` are CRLs."""
    ours = certificates or [authority.issue("localhost", "127.0.0.1")]
    files = [leaf.write(folder, f"server-{number}") for number, leaf in enumerate(ours)]
    (folder / "ca.pem").write_bytes(trusted or authority.pem)
    if lists:
        (folder / "crl.pem").write_bytes(lists)
    made = Served(identify_by(folder, clients, clock=clock), folder)
    tls = context(folder, files, any_purpose=way == "pyopenssl")
    made.listener = Listener(made.application, address="127.0.0.1:0", tls=tls, count=made.events.append, most=most)
    running = asyncio.create_task(made.listener.serve())
    try:
        yield made
    finally:
        made.listener.stop()
        await running


def identify_by(folder: Path, clients: Sequence[Entry], *, clock: Callable[[], float] | None = None) -> Identify:
    lists = folder / "crl.pem"
    revocations = revocation.read(lists) if lists.exists() else None
    if clock is not None:
        return callers.by_certificate(clients, revocations=revocations, clock=clock)
    return callers.by_certificate(clients, revocations=revocations)


def context(folder: Path, files: Sequence[tuple[Path, Path]] = (), *, any_purpose: bool = False) -> Tls:
    lists = folder / "crl.pem"
    ours = files or [(folder / "server-0.pem", folder / "server-0.key")]
    return server_tls(Files(ours, folder / "ca.pem", lists if lists.exists() else None), any_purpose=any_purpose)


def client_tls(
    authority: Authority, leaf: Leaf | None, folder: Path, *, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """TLS of a caller with this certificate."""
    tls = ssl.create_default_context(cadata=authority.pem.decode())
    if leaf is not None:
        tls.load_cert_chain(*leaf.write(folder, "caller"))
    if version is not None:
        tls.minimum_version = tls.maximum_version = version
    return tls


def ask(
    port: int, tls: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[int, str, ssl.SSLSession | None]:
    """One request on a connection of its own, blocking: status, who we are taken for, the session to come back with.

    Raises OSError (ssl.SSLError is one) where there is no answer.
    """
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with tls.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        if not answer:
            raise ConnectionResetError("no answer")
        assert connection.session_reused == (session is not None), "resumed where it was not wanted, or the reverse"
        return int(answer.split()[1]), answer.rpartition(b"\r\n")[2].decode(), connection.session


async def asking(
    port: int, tls: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[int, str, ssl.SSLSession | None]:
    """The same from a coroutine."""
    return await asyncio.to_thread(ask, port, tls, session)
