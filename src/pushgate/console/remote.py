"""A running gateway, asked over its management port: its rejections, and what became of an id. The other side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from pushgate.console.rejections import MOST_AT_ONCE, Counts, Forgotten, Page
from pushgate.errors import PushgateError
from pushgate.spool import KnownRejection

ANSWER_WITHIN_S = 70.0
"""A little longer than the gateway gives itself."""
MAX_SAID_CHARS = 300

_T = TypeVar("_T")


class NobodyThere(PushgateError):  # noqa: N818 - what was found
    """Nobody listens at the address."""


class NoAnswer(PushgateError):  # noqa: N818 - what was found
    """Somebody listens and gives no answer that helps: the text says why."""


class Remote:
    """The management port of a gateway."""

    def __init__(self, address: str, *, token: bytes = b"", transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`address` is `host:port`, as the gateway's `management.listen`. `transport`: another way than TCP.

        `token` is what the port wants to be shown, empty where it wants none.
        """
        host, _, port = address.rpartition(":")
        local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - where such a port is reached
        self._url = f"http://{local}:{port}"
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token.decode()}"} if token else {},
            timeout=ANSWER_WITHIN_S,
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, kind: type[_T], **options: Any) -> _T:
        """What it answers. Raises `NobodyThere` or `NoAnswer`."""
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.ConnectError as error:
            raise NobodyThere(f"nobody listens at {self._url}") from error
        except httpx.TimeoutException as error:
            raise NoAnswer(f"{self._url} does not answer in time") from error
        except httpx.HTTPError as error:
            raise NoAnswer(f"{self._url} does not speak HTTP: {type(error).__name__}") from error
        try:
            if answer.status_code == 200:
                return msgspec.json.decode(answer.content, type=kind)
            said = msgspec.json.decode(answer.content, type=dict[str, Any]).get("error", "")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NoAnswer(f"{answer.url} is not the management port of a gateway ({answer.status_code})") from error
        words = "".join(char if char.isprintable() else "?" for char in str(said)[:MAX_SAID_CHARS])
        raise NoAnswer(f"the gateway at {self._url} answers {answer.status_code}: {words}")


class RemoteRejections:
    """See `console.rejections.Rejections`. Raises `NobodyThere` or `NoAnswer`."""

    def __init__(self, address: str, *, token: bytes = b"", transport: httpx.AsyncBaseTransport | None = None) -> None:
        """See `Remote`."""
        self._remote = Remote(address, token=token, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._remote.__aexit__(kind, fault, trace)

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`; at most 1000."""
        asked = {"app": app_id, "prefix": prefix, "after": after, "limit": str(min(limit, MOST_AT_ONCE))}
        page = await self._remote.ask(
            "GET", "/rejections", Page, params={name: value for name, value in asked.items() if value}
        )
        return page.rejections

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        counts = await self._remote.ask("GET", "/rejections/count", Counts)
        return {(each.app_id, each.reason): each.count for each in counts.rejections}

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """See `spool.Spool.forget_rejections`."""
        asked = {"app": lane, "prefix": prefix, "since": since}
        return (await self._remote.ask("POST", "/rejections/forget", Forgotten, json=asked)).forgotten
