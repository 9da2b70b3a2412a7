"""One POST until it is answered: attempts, what each answer means, and how long to wait between them.

Only what time can heal is tried again: no connection, no answer, 429, 5xx. The same bytes go out each time, so that
a gateway that had taken them already can tell the repeat.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable

import httpx
from msgspec import Struct

from pushgate.client.answers import read_fault, read_request_id, read_retry_after
from pushgate.client.errors import (
    AnswerUnusable,
    GatewayRefused,
    GatewayUnavailable,
    GatewayUntrusted,
    said,
)


class Retries(Struct, frozen=True, kw_only=True):
    """How often and when a request is tried again."""

    count: int = 3
    """After the first attempt. 0 = never again."""
    base_delay_s: float = 1.0
    """Before the first retry; doubled before each further one."""
    max_delay_s: float = 60.0
    """The longest wait, jitter aside. A Retry-After above it ends the call: that wait is the caller's to organise."""
    jitter: float = 0.2
    """Up to this share is added to each wait, so that not all callers come back at once."""

    def delay_s(self, *, retry: int, retry_after_s: float | None, chance: float) -> float | None:
        """How long to wait before the retry with this number, from 1; None when there shall be none.

        `chance` is a random number from 0 up to 1.
        """
        if retry > self.count or (retry_after_s is not None and retry_after_s > self.max_delay_s):
            return None
        doubled = self.base_delay_s * 2.0 ** min(retry - 1, 60)
        wait = min(doubled, self.max_delay_s) if retry_after_s is None else retry_after_s
        return wait * (1.0 + self.jitter * chance)


class Answer(Struct, frozen=True):
    """A 2xx."""

    body: bytes
    request_id: str
    """See `read_request_id`."""


class Attempts:
    """Posts to one gateway. Whoever made the HTTP client closes it."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        timeout_s: float,
        retries: Retries,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        rng: Callable[[], float],
    ) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._retries = retries
        self._clock = clock
        self._sleep = sleep
        self._rng = rng

    async def post(self, path: str, body: bytes) -> Answer:
        """The 2xx answer.

        Raises GatewayRefused, GatewayUntrusted, GatewayUnavailable, AnswerUnusable.
        """
        attempts = 0
        while True:
            attempts += 1
            answer = await self._attempt(path, body)
            if isinstance(answer, Answer):
                return answer
            delay_s = self._retries.delay_s(retry=attempts, retry_after_s=answer.retry_after_s, chance=self._rng())
            if delay_s is None:
                raise GatewayUnavailable(
                    answer.reason,
                    attempts=attempts,
                    status=answer.status,
                    retry_after_s=answer.retry_after_s,
                    request_id=answer.request_id,
                ) from answer.cause
            await self._sleep(delay_s)

    async def _attempt(self, path: str, body: bytes) -> Answer | _NotNow:
        outer = sys.exception()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.post(path, content=body)
        except TimeoutError as error:
            return _NotNow(f"no answer within {self._timeout_s:g} s", cause=error)
        except (httpx.TransportError, ssl.SSLError) as error:
            if verdict := _tls_verdict(error, outer=outer):
                raise GatewayUntrusted(f"TLS to the gateway failed: {verdict}") from error
            return _NotNow(f"connection failed: {type(error).__name__}", cause=error)
        except httpx.DecodingError as error:
            raise AnswerUnusable("the gateway's answer cannot be read as the API's") from error
        return self._judge(answer)

    def _judge(self, answer: httpx.Response) -> Answer | _NotNow:
        status, request_id = answer.status_code, read_request_id(answer.headers.get("x-request-id"))
        if 200 <= status < 300:
            return Answer(answer.content, request_id)
        fault = read_fault(answer.content)
        if status == 429 or status >= 500:
            retry_after_s = read_retry_after(answer.headers.get("retry-after"), self._clock())
            reason = said(status, fault.error)
            return _NotNow(reason, status=status, retry_after_s=retry_after_s, request_id=request_id)
        raise GatewayRefused(status, fault.error, fault.details, request_id=request_id)


# Words in OpenSSL's reasons, such as TLSV13_ALERT_CERTIFICATE_REQUIRED and CERTIFICATE_VERIFY_FAILED.
_FINAL = frozenset({"ALERT", "VERIFY"})
_PASSING = frozenset({"INTERNAL"})


class _NotNow(Struct, frozen=True):
    """An attempt that may be made again."""

    reason: str
    status: int | None = None
    retry_after_s: float | None = None
    cause: Exception | None = None
    request_id: str = ""


def _tls_verdict(error: Exception, *, outer: BaseException | None) -> str:
    """What one side said against the certificate of the other; empty where it is not about that.

    A connection cut in the middle of a handshake may heal; an alert or a failed verification does not. `outer` is
    what was being handled before the attempt: not ours to judge by.
    """
    link: BaseException | None = error
    while link is not None and link is not outer:
        if isinstance(link, ssl.SSLError) and link.reason:
            words = set(link.reason.split("_"))
            if words & _FINAL and not words & _PASSING:
                return link.reason
        # httpcore raises "from None", which hides the cause but keeps the context.
        link = link.__cause__ or link.__context__
    return ""
