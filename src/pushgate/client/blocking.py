"""The same client for code without an event loop: each call waits for its answer. Safe to use from several threads."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypedDict, TypeVar, Unpack

from pushgate.client.attempts import Retries
from pushgate.client.errors import ClientConfigError
from pushgate.client.results import BatchResult, NotifyResult
from pushgate.client.sender import Item, PushGatewayClient
from pushgate.model import EncryptedNotification, PlainNotification

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Options(TypedDict, total=False):
    """The options of PushGatewayClient."""

    cert_file: str | None
    key_file: str | None
    ca_file: str | None
    tls: ssl.SSLContext | None
    allow_http: bool
    timeout_s: float
    retries: Retries | None
    user_agent: str
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    rng: Callable[[], float]


class SyncPushGatewayClient:
    """A PushGatewayClient on an event loop in a thread of its own. Close it, or use it with `with`.

    Methods, options and errors are those of PushGatewayClient.
    """

    def __init__(self, base_url: str, **options: Unpack[Options]) -> None:
        self._client = PushGatewayClient(base_url, **options)
        self._open = True
        self._turn = threading.Lock()
        """Held while something is handed to the loop: nothing may come after `close`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="push-gateway-client", daemon=True)
        self._thread.start()

    def notify(self, notification: PlainNotification) -> NotifyResult:
        """Send one plain notification to all of its devices."""
        return self._wait(self._client.notify, notification)

    def notify_batch(self, notifications: Sequence[PlainNotification | Item[PlainNotification]]) -> BatchResult:
        """Send plain notifications, any number of them."""
        return self._wait(self._client.notify_batch, notifications)

    def notify_encrypted_batch(
        self, notifications: Sequence[EncryptedNotification | Item[EncryptedNotification]]
    ) -> BatchResult:
        """Send sealed notifications, any number of them."""
        return self._wait(self._client.notify_encrypted_batch, notifications)

    def close(self) -> None:
        """Let go of connections and thread; calls that wait in other threads are cancelled. May be called twice."""
        with self._turn:
            if not self._open:
                return
            self._open = False
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._client.close()

    def _wait(self, call: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._turn:
            if not self._open:
                raise ClientConfigError("the client is closed")
            answer = asyncio.run_coroutine_threadsafe(call(*args, **kwargs), self._loop)
        try:
            return answer.result()
        finally:
            answer.cancel()  # when the wait was interrupted; nothing otherwise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
