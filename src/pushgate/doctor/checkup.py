"""All checks of a configuration: files and spool first, then every app by itself and all of them side by side."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import assert_never

from pushgate.config import AppSettings, Settings
from pushgate.config.keys import written
from pushgate.doctor import (
    apns,
    caller_tls,
    clock,
    collector,
    credentials,
    fcm,
    management,
    nats,
    permissions,
    spool,
    way,
)
from pushgate.doctor.asking import Tools
from pushgate.doctor.finding import Check, Finding, State, not_checked, ok, wrong
from pushgate.doctor.patience import STEP_S, in_thread
from pushgate.errors import ConfigError, ConfigFault, CredentialError
from pushgate.http2.target import Target
from pushgate.provider import apns_settings, fcm_settings

APP_WITHIN_S = 60.0
"""Everything about one app. Each step has less: this is for what nobody thought of."""
Way = asyncio.Task[list[Finding]]


def faults(found: Iterable[ConfigFault]) -> list[Finding]:
    """The faults of a configuration that cannot be used, as `check-config` tells them."""
    return [wrong(Check.CONFIGURATION, each.path, each.fault, next_step=each.mend) for each in found]


class Checkup:
    """One look at everything. `run` it once."""

    def __init__(
        self,
        settings: Settings,
        *,
        apps: Collection[str] = (),
        offline: bool = False,
        tell: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`apps`: only these, all where there are none. `tell` gets what is looked at, for people who wait."""
        self._settings = settings
        self._apps = {each: settings.apps[each] for each in settings.apps if not apps or each in apps}
        self._offline = offline
        self._tell = tell
        self._now = now
        self._tools = Tools(now, entropy, [], [])
        self._ways: dict[object, Way] = {}

    async def run(self) -> Sequence[Finding]:
        """Everything that was found, what concerns all apps first."""
        self._tell("files and spool")
        async with asyncio.TaskGroup() as tasks:
            files = tasks.create_task(self._files())
            disk = tasks.create_task(self._spool())
            traces = tasks.create_task(collector.look(self._settings.tracing, offline=self._offline))
            asked = [tasks.create_task(self._app(each, self._apps[each])) for each in self._apps]
        by_app = [finding for task in asked for finding in task.result()]
        return [
            ok(Check.CONFIGURATION, "", f"no faults; apps: {', '.join(self._settings.apps) or 'none'}"),
            self._clock(),
            *files.result(),
            *disk.result(),
            *_once(by_app),
            *traces.result(),
        ]

    def _clock(self) -> Finding:
        if self._offline:
            return _offline(Check.CLOCK, clock.ABOUT)
        return clock.judge(self._tools.heard, trusted_by=self._tools.trusted_by)

    # --- what all apps share

    async def _files(self) -> list[Finding]:
        try:
            return await in_thread(lambda: list(self._in_files()))
        except TimeoutError:
            mend = "is one of them on a network file system that hangs?"
            return [wrong(Check.PERMISSIONS, "files", f"not read within {STEP_S:g} s", next_step=mend)]

    def _in_files(self) -> Iterator[Finding]:
        settings = self._settings
        yield from caller_tls.look(settings.api, now=self._now())
        for name in ("api", "management", "spool", "tracing"):
            yield from permissions.of_table(getattr(settings, name), name)
        for app_id, app in self._apps.items():
            yield from permissions.of_table(app, written(("apps", app_id)))

    async def _spool(self) -> list[Finding]:
        gateway = await management.look(self._settings.management.listen)
        found = await nats.look(self._settings)
        try:
            found += await in_thread(lambda: list(spool.look(self._settings.spool)))
            found += await in_thread(lambda: list(self._in_use(is_answering=gateway.is_gateway)))
        except TimeoutError:
            mend = "is it on a network file system that hangs? Put the spool on a local disk"
            found.append(wrong(Check.FOLDER, "spool.url", f"no answer within {STEP_S:g} s", next_step=mend))
        found.append(gateway.finding)
        wanted, table = self._settings.api.processes, self._settings.management
        if gateway.is_gateway and wanted != 1:
            try:
                token = table.token()
            except ConfigError:  # it was changed just now: the port will say what it thinks of none
                token = b""
            found.append(await management.processes(table.listen, wanted, token=token))
        return found

    def _in_use(self, *, is_answering: bool) -> Iterator[Finding]:
        settings, held = self._settings, None
        if settings.spool.sqlite_path is not None:
            try:
                held = spool.holder(settings.spool)
                yield spool.lock(held, is_answering=is_answering, management=settings.management.listen)
            except OSError as error:
                mend = "run this as the user that runs pushgate"
                yield not_checked(Check.LOCK, "spool.url", f"cannot be asked ({error.strerror})", next_step=mend)
        if held is None and not is_answering:
            yield management.may_listen(settings.api.listen)

    # --- one app

    async def _app(self, app_id: str, app: AppSettings) -> list[Finding]:
        found: list[Finding] = []
        try:
            async with asyncio.timeout(APP_WITHIN_S):
                found += await in_thread(lambda: list(credentials.look(app_id, app, now=self._now())))
                if self._offline:
                    found.append(_offline(Check.PROVIDER, app_id))
                elif all(each.check is not Check.CREDENTIALS or each.state is not State.WRONG for each in found):
                    await self._by_network(app_id, app, found)
        except CredentialError as error:
            fault, _, mend = str(error).partition(" -> ")
            found.append(wrong(Check.CREDENTIALS, app_id, fault, next_step=mend or "write the file anew"))
        except TimeoutError:
            seen = f"no end within {APP_WITHIN_S:g} s"
            found.append(wrong(Check.PROVIDER, app_id, seen, next_step="run it again; what hangs besides?"))
        except OSError as error:
            mend = "pushgate check-config names the file: was it changed just now?"
            found.append(wrong(Check.CREDENTIALS, app_id, f"a file of it: {error.strerror}", next_step=mend))
        return found

    async def _by_network(self, app_id: str, app: AppSettings, found: list[Finding]) -> None:
        """Appends to `found`, so that what is known is kept when time is up. Raises `CredentialError`."""
        ways = [self._way(peer, app, http2=http2) for peer, http2 in _hosts(app)]
        for each in ways:
            found += await asyncio.shield(each)
        if not all(way.is_open(each.result()) for each in ways):
            mend = "mend the way to its hosts first"
            found.append(not_checked(Check.PROVIDER, app_id, "its provider is not reached", next_step=mend))
            return
        self._tell(app_id)
        match app:
            case apns_settings.Settings():
                found.append(await apns.ask_apns(app_id, app, tools=self._tools))
            case fcm_settings.Settings():
                found += await fcm.ask_fcm(app_id, app, tools=self._tools)
            case _:
                assert_never(app)

    def _way(self, peer: Target, app: AppSettings, *, http2: bool) -> Way:
        """The way to a host, walked once for all apps that go it with the same trust and certificate."""
        shown = app.certificate_file if isinstance(app, apns_settings.Settings) else None
        key = (peer.host, peer.port, peer.proxy, app.ca_file, shown)
        if key not in self._ways:
            self._tell(peer.host)
            self._ways[key] = asyncio.create_task(way.walk(peer, ca_file=app.ca_file, http2=http2))
        return self._ways[key]


def _hosts(app: AppSettings) -> Iterator[tuple[Target, bool]]:
    """Where an app's requests go, and whether by HTTP/2. Raises `CredentialError`."""
    match app:
        case apns_settings.Settings():
            yield apns.host(app), True
        case fcm_settings.Settings():
            first, tokens = fcm.host(app), fcm.token_host(app)
            yield first, True
            if tokens is not None and (tokens.host, tokens.port) != (first.host, first.port):
                yield tokens, False
        case _:
            assert_never(app)


def _offline(check: Check, about: str) -> Finding:
    return not_checked(check, about, "--offline: no provider was asked", next_step="run it again without --offline")


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Each of them once: apps share hosts."""
    return iter(dict.fromkeys(findings))


def found_anything_wrong(findings: Iterable[Finding]) -> bool:
    """Whether somebody must act: the exit code."""
    return any(each.state is State.WRONG for each in findings)
