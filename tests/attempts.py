"""One attempt at a provider, awaited."""

from __future__ import annotations

import asyncio

from pushgate.model import Delivery
from pushgate.outcome import Outcome
from pushgate.provider import Provider


async def outcome_of(provider: Provider, delivery: Delivery) -> Outcome:
    """Make one attempt and wait for its outcome."""
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    attempt = provider.start(delivery, outcome.set_result)
    try:
        return await outcome
    except asyncio.CancelledError:
        attempt.cancel()
        raise
