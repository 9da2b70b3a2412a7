"""A spool on NATS: each server by itself, then the stream and the buckets on them. Nothing is made or changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from pushgate.config import Settings
from pushgate.doctor.finding import Check, Finding, not_checked, ok, said, warning, wrong
from pushgate.errors import SpoolUnavailable, SpoolUnusable
from pushgate.nats_wanted import nats_cluster
from pushgate.spool.jetstream.api import NOT_FOUND, ApiError, JetStream
from pushgate.spool.jetstream.cluster import Cluster, Server
from pushgate.spool.jetstream.layout import FIXED, OLDEST_SERVER, Layout, Wanted, configs, differences
from pushgate.spool.jetstream.link import Link
from pushgate.spool.limits import MB, Limits

REQUEST_S = 2.0
WITHIN_S = 30.0
"""All of it. Each step has less: this is for what nobody thought of."""
TABLE = "spool.nats"


class _Seen(Struct, frozen=True):
    """What one server says of itself."""

    finding: Finding
    link: Link | None = None
    """Where it let us in and has JetStream."""


async def look(settings: Settings) -> list[Finding]:
    """Everything about them; nothing where the spool is elsewhere."""
    if not settings.spool.is_shared:
        return []
    found: list[Finding] = []
    try:
        async with asyncio.timeout(WITHIN_S), AsyncExitStack() as stack:
            cluster = nats_cluster(settings.spool)
            seen = await asyncio.gather(*(_server(server, cluster, stack) for server in cluster.servers))
            links = [each.link for each in seen if each.link is not None]
            found += _with_others([each.finding for each in seen], are_well=len(links))
            if links:
                js = JetStream(links[0], request_s=REQUEST_S)
                found += [each async for each in _streams(js, cluster, _wanted(settings))]
            else:
                mend = "mend the way to the servers first"
                found.append(not_checked(Check.STREAM, TABLE, "no server can be asked", next_step=mend))
    except TimeoutError:
        found.append(wrong(Check.STREAM, TABLE, f"no end within {WITHIN_S:g} s", next_step="run it again"))
    return found


def _wanted(settings: Settings) -> Wanted:
    spool = settings.spool
    limits = Limits(spool.max_waiting, spool.max_mb * MB, spool.max_share_per_app)
    return Wanted(spool.max_age_s, settings.dedup.window_s, settings.rejections.remember_s, limits)


# --- servers


async def _server(server: Server, cluster: Cluster, stack: AsyncExitStack) -> _Seen:
    link = Link(replace(cluster, servers=(server,), patience_s=0), client="pushgate doctor")
    try:
        await link.open()
    except SpoolUnusable as error:
        fault, _, mend = str(error).partition(" -> ")
        return _Seen(wrong(Check.SERVER, str(server), said(fault), next_step=mend or "see its log"))
    stack.push_async_callback(link.close)
    version = ".".join(map(str, link.version)) or "of no version"
    if link.version < OLDEST_SERVER:
        mend = "install 2.11 or later on each server, one after another"
        return _Seen(wrong(Check.SERVER, str(server), f"NATS is {version}", next_step=mend))
    if not link.info.get("jetstream"):
        mend = 'put jetstream { store_dir: "/data" } into its configuration'
        return _Seen(wrong(Check.SERVER, str(server), f"NATS {version}, JetStream is off", next_step=mend))
    return _Seen(ok(Check.SERVER, str(server), f"NATS {version} lets us in and has JetStream"), link)


def _with_others(found: Sequence[Finding], *, are_well: int) -> Iterator[Finding]:
    """A fault of one server is none of the spool, where most are well."""
    for each in found:
        if each.next_step and 2 * are_well > len(found):
            yield warning(each.check, each.about, each.seen, next_step=each.next_step)
        else:
            yield each


# --- what is kept there


async def _streams(js: JetStream, cluster: Cluster, wanted: Wanted) -> AsyncIterator[Finding]:
    try:
        await js.ask("INFO")
    except SpoolUnavailable as fault:
        mend = "see that JetStream is on for our account, that our user may use $JS.API.>, and that most servers run"
        yield wrong(Check.STREAM, TABLE, said(str(fault)), next_step=mend)
        return
    for config in configs(Layout(cluster.name), wanted):
        about = f"stream {config['name']}"
        try:
            info = await js.ask(f"STREAM.INFO.{config['name']}")
        except ApiError as no:
            yield _missing(about, no, cluster, servers=_running(js.link))
        except SpoolUnavailable as fault:
            mend = "see that most servers of the cluster run"
            yield wrong(Check.STREAM, about, said(str(fault)), next_step=mend)
        else:
            yield _judge(about, config, info, cluster, servers=_running(js.link))


def _running(link: Link) -> int:
    """How many servers the one that we are connected to knows to run."""
    return max(len(link.info.get("connect_urls") or ()), 1) if link.info.get("cluster") else 1


def _missing(about: str, no: ApiError, cluster: Cluster, *, servers: int) -> Finding:
    if no.code not in NOT_FOUND:
        return wrong(Check.STREAM, about, said(str(no)), next_step="see the server's log, and what our user may do")
    if not cluster.manage:
        mend = "make it there, or set spool.nats.manage = true"
        return wrong(Check.STREAM, about, "not there", next_step=mend)
    if cluster.replicas > servers:
        return _too_few(about, cluster.replicas, servers=servers)
    return ok(Check.STREAM, about, "not there yet: the first start makes it")


def _too_few(about: str, replicas: int, *, servers: int) -> Finding:
    seen = f"spool.nats.replicas is {replicas}, and {servers} {'server runs' if servers == 1 else 'servers run'}"
    mend = "start more servers in one cluster, or lower spool.nats.replicas"
    return wrong(Check.STREAM, about, seen, next_step=mend)


def _judge(
    about: str, config: Mapping[str, Any], info: Mapping[str, Any], cluster: Cluster, *, servers: int
) -> Finding:
    """What is to be said of a stream that is there."""
    there: Mapping[str, Any] = info.get("config") or {}
    differing = differences(config, there, replicas=cluster.replicas)
    told = said(", ".join(f"{key} is {there.get(key)} instead of {value}" for key, value in differing.items()))
    if any(key in FIXED for key in differing):
        mend = "it is not ours: set another spool.nats.name, or remove it"
        return wrong(Check.STREAM, about, told, next_step=mend)
    if differing.get("num_replicas", 0) > servers:
        return _too_few(about, cluster.replicas, servers=servers)
    group: Mapping[str, Any] = info.get("cluster") or {}
    copies: Sequence[Mapping[str, Any]] = group.get("replicas") or ()
    if group and not group.get("leader"):
        mend = "see that most servers of the cluster run"
        return wrong(Check.STREAM, about, "has no leader: nothing is taken", next_step=mend)
    if differing and not cluster.manage:
        mend = "change it there, or set spool.nats.manage = true"
        return wrong(Check.STREAM, about, told, next_step=mend)
    if differing:
        mend = "the next start changes it: give all gateways the same configuration"
        return warning(Check.STREAM, about, told, next_step=mend)
    if behind := [str(each.get("name")) for each in copies if each.get("offline") or not each.get("current")]:
        seen = f"the copy on {', '.join(sorted(behind))} is not there, or lags behind"
        return warning(Check.STREAM, about, said(seen), next_step="see to that server: one more must not be lost")
    if there.get("num_replicas") == 1 and not cluster.replicas:
        mend = "three servers and spool.nats.replicas = 3; or 1, where that is meant"
        return warning(Check.STREAM, about, "one copy only: lost with its server", next_step=mend)
    return ok(Check.STREAM, about, f"as it should be, copies: {there.get('num_replicas')}")
