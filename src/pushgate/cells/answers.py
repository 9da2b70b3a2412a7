"""What a cell answers its supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

import msgspec

from pushgate.cells.messages import (
    Ask,
    AskCount,
    AskExplain,
    AskFamilies,
    AskForget,
    AskRejections,
    AskTakeOver,
    Question,
    Told,
)
from pushgate.config import Settings
from pushgate.errors import ConfigError, CredentialError, SpoolError
from pushgate.gateway import Gateway, Parts

_encode = msgspec.msgpack.Encoder().encode


class Answers:
    """Of one gateway."""

    def __init__(self, gateway: Gateway, *, read: Callable[[bytes], Settings]) -> None:
        """`read` makes settings of the content of the configuration file. Raises `ConfigError`."""
        self._gateway = gateway
        self._read = read

    async def to(self, asked: Ask, parts: Parts) -> Told:
        """The answer to one question."""
        try:
            return Told(asked.number, _encode(await self._answer(asked.question, parts)))
        except SpoolError as fault:
            return Told(asked.number, fault=str(fault))

    async def _answer(self, question: Question, parts: Parts) -> object:
        match question:
            case AskFamilies():
                return self._gateway.metrics.families()
            case AskRejections():
                return await parts.spool.rejections(
                    app_id=question.app_id, prefix=question.prefix, after=question.after, limit=question.limit
                )
            case AskCount():
                counts = await parts.spool.count_rejections()
                return [(*key, count) for key, count in counts.items()]
            case AskForget():
                return await parts.spool.forget_rejections(question.lane, since=question.since, prefix=question.prefix)
            case AskExplain():
                return self._gateway.journal.explain(question.asked)
            case AskTakeOver():
                return await self._take_over(question.config_text, parts)
            case _:
                assert_never(question)

    async def _take_over(self, text: bytes, parts: Parts) -> list[tuple[str, str, str]]:
        try:
            await self._gateway.take_over(await asyncio.to_thread(self._read, text), parts)
        except ConfigError as error:
            return [(each.path, each.fault, each.mend) for each in error.faults]
        except (CredentialError, OSError) as error:
            fault, _, mend = str(error).partition(" -> ")
            return [("files", fault, mend)]
        return []
