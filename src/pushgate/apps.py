"""The configured apps as they run: a provider for each, opened, replaced and closed as the configuration changes.

Who never sends asks providers what they would refuse, and has no credentials, no connections and no lanes.

Knows the providers by their classes; nobody else but `gateway` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Never, assert_never

from msgspec import Struct

from pushgate import retry
from pushgate.breaker import BreakerLimits
from pushgate.config import AppSettings, Settings
from pushgate.config.files import digest
from pushgate.flights import Landing
from pushgate.http2 import Call, Pool
from pushgate.intake import App
from pushgate.lane_settings import LaneSettings
from pushgate.provider import Provider, apns, fcm
from pushgate.provider.credentials import Clock, GoogleToken
from pushgate.provider.peer import Line
from pushgate.provider.sharing import Sharing

REASONS: Mapping[str, frozenset[str]] = {"apns": apns.REASONS, "fcm": fcm.REASONS}
"""Every reason that an outcome of a provider can give."""

_POLICIES: Mapping[str, retry.Policy] = {"apns": retry.APNS, "fcm": retry.FCM}


class _Open(Struct, frozen=True):
    settings: AppSettings
    digest: bytes
    """Of the files that the settings name: a key may change and keep its path. Empty where nobody looks at them."""
    provider: Provider


class Apps:
    """The apps that run. Lanes of one key share its token; connections too, where trust is equal."""

    def __init__(self, *, clock: Clock, sends: bool = True) -> None:
        self._clock = clock
        self._sends = sends
        self._sharing = Sharing()
        self._open: dict[str, _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def change(self, apps: Mapping[str, AppSettings]) -> Collection[Provider]:
        """These are the apps from now on. Returns the providers that are not used any more, for `close_behind`.

        An app of equal settings whose files hold what they held keeps its provider. Raises `CredentialError`, and
        then everything is as it was.
        """
        after: dict[str, _Open] = {}
        made: list[Provider] = []
        try:
            for app_id, settings in apps.items():
                known, now = self._open.get(app_id), digest(settings) if self._sends else b""
                if known is None or (known.settings, known.digest) != (settings, now):
                    known = _Open(settings, now, self._provider(settings))
                    made.append(known.provider)
                after[app_id] = known
        except BaseException:
            self.close_behind(made, ())
            raise
        gone = [each.provider for app_id, each in self._open.items() if after.get(app_id) is not each]
        self._open = after
        return gone

    def lanes(self, settings: Settings) -> Mapping[str, LaneSettings]:
        """How dispatch is to run each of them that is sent for: all, or none."""
        if not self._sends:
            return {}
        limits = settings.rejections
        breaker = BreakerLimits(limits.breaker_share, limits.breaker_count, limits.breaker_window_s)
        return {
            app_id: LaneSettings(each.provider, _POLICIES[each.settings.provider], each.settings.max_in_flight, breaker)
            for app_id, each in self._open.items()
        }

    def intakes(self) -> Mapping[str, App]:
        """What intake must know of each of them."""
        return {
            app_id: App(each.provider.refuse, frozenset(each.settings.forward_data))
            for app_id, each in self._open.items()
        }

    def lines(self) -> Mapping[str, Sequence[Pool]]:
        """The connections to each peer (`host:port`), for metrics."""
        lines: dict[str, list[Pool]] = {}
        for line in self._sharing.things(Line):
            if isinstance(line.pool, Pool):
                lines.setdefault(line.peer, []).append(line.pool)
        return lines

    def credentials_end_at(self) -> Mapping[tuple[str, str], float]:
        """When what proves us to a provider ends, in unix seconds, by app and kind; 0 where it does not."""
        ends: dict[tuple[str, str], float] = {}
        for app_id, each in self._open.items():
            match each.provider:
                case apns.ApnsProvider() as provider:
                    ends[app_id, "certificate"] = provider.certificate_ends_at
                case fcm.FcmProvider() as provider:
                    ends[app_id, "token"] = provider.token_ends_at
                case _:
                    pass  # a provider that nobody here knows has none that ends
        return ends

    def close_behind(self, providers: Collection[Provider], flying: Sequence[Landing]) -> None:
        """Close providers as soon as these attempts have landed."""

        async def close() -> None:
            for landing in flying:
                await landing.wait()
            for provider in providers:
                await provider.close()

        if providers:
            task = asyncio.create_task(close(), name="providers that were replaced")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Let go of every provider. Nothing is in flight any more."""
        if self._closing:
            await asyncio.wait(self._closing)
        for each in self._open.values():
            await each.provider.close()

    def _provider(self, settings: AppSettings) -> Provider:
        if not self._sends:
            return _unopened(settings, clock=self._clock)
        match settings:
            case apns.Settings():
                return apns.ApnsProvider.open(settings, sharing=self._sharing, clock=self._clock)
            case fcm.Settings():
                return fcm.FcmProvider.open(settings, sharing=self._sharing, clock=self._clock)
            case _:
                assert_never(settings)


def _unopened(settings: AppSettings, *, clock: Clock) -> Provider:
    """A provider that knows what to refuse, and nothing to send with."""
    match settings:
        case apns.Settings():
            return apns.ApnsProvider(settings, line=Line(_NoLine), authority="", token=None, clock=clock)
        case fcm.Settings():
            token = GoogleToken(_never, clock=clock)
            return fcm.FcmProvider(settings, line=Line(_NoLine), authority="", token=token, clock=clock)
        case _:
            assert_never(settings)


def _never() -> Never:
    raise AssertionError("a gateway that never sends was about to")


class _NoLine:
    """In place of the connections of who has none. See `provider.peer.Asker`."""

    def join(self, owner: Hashable) -> None:
        """No stream is kept free."""

    def leave(self, owner: Hashable) -> None:
        """None was."""

    def waiting_of(self, owner: Hashable) -> int:
        """Nothing does."""
        return 0

    def send(self, call: Call, *, owner: Hashable) -> None:
        """A bug of ours: there are no lanes."""
        _never()

    def renew(self) -> None:
        """There is nothing to renew."""

    async def close(self, timeout_s: float = 0.0) -> None:
        """There is nothing to close."""
