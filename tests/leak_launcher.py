"""Runs a pushgate command with faults built in that tell secrets: `python leak_launcher.py PLAN COMMAND...`.

The plan is a JSON file: `spots` names what breaks, each with the pushkey that makes it break where there is one, and
`text` is what its exceptions say. Nothing of this is in the product. Spots that begin with `plant` are real leaks: they
show that a test would find one.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import logging
import os
import reprlib
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import structlog

from pushgate import cli, gateway, intake, lane, metrics, settling, spools, wire
from pushgate.commands import check_config, serve
from pushgate.errors import RequestError
from pushgate.health import Health
from pushgate.metrics.families import Family
from pushgate.provider import apns, google_fetch
from pushgate.spool.committer import Committer
from pushgate.spool.store import Store


class Plan:
    """What breaks, at whose pushkey, with which words."""

    def __init__(self, path: Path) -> None:
        plan = json.loads(path.read_text())
        self.spots: Mapping[str, str] = plan["spots"]
        self.text: str = plan["text"]
        self._put_breaks = False

    def broken(self, kind: type[Exception] = RuntimeError) -> NoReturn:
        """Fail, and say all that one could say."""
        text = self.text
        fault = kind(text)
        fault.add_note(text)
        try:
            raise ValueError(text)
        except ValueError as cause:
            raise fault from cause

    def at(self, spot: str, value: object) -> None:
        """Fail where this spot breaks and what it works on is the pushkey of the spot."""
        pushkey = self.spots.get(spot)
        if pushkey and pushkey in str(value):
            self.broken()

    # --- where

    def install(self) -> None:
        """Build in whatever the plan names."""
        self._in_request()
        self._in_lane()
        self._in_spool()
        self._elsewhere()

    def _in_request(self) -> None:
        decode, accept = wire.decode_encrypted_batch, intake.Intake.accept

        def decode_encrypted_batch(body: bytes, limits: wire.Limits) -> Any:
            self.at("wire", body.decode("utf-8", "replace"))
            return decode(body, limits)

        async def broken_accept(own: intake.Intake, notifications: Any, caller: Any) -> Any:
            pushkeys = [pushkey_of(each) for each in notifications]
            self.at("request", pushkeys)
            for spot in ("spool", "loop"):
                if self.spots.get(spot, "-") in pushkeys:
                    self._put_breaks = spot == "spool"
                    if spot == "loop":
                        self._break_the_loop()
            for name, plant in PLANTED.items():
                if self.spots.get(f"plant {name}") in pushkeys:
                    plant(pushkeys[0])
            return await accept(own, notifications, caller)

        put_in(wire, "decode_encrypted_batch", decode_encrypted_batch)
        put_in(intake.Intake, "accept", broken_accept)

    def _in_lane(self) -> None:
        start, classify = apns.ApnsProvider.start, apns.classify
        believe = lane.Lane._believe
        settle, acknowledge = settling.Settling.settle, settling.Settling._acknowledge

        def broken_start(own: apns.ApnsProvider, delivery: Any, tell: Any) -> Any:
            self.at("provider", delivery.device.pushkey)
            return start(own, delivery, tell)

        def broken_classify(status: int, headers: Any, body: bytes, **more: Any) -> Any:
            self.at("answer", body.decode("utf-8", "replace"))
            return classify(status, headers, body, **more)

        def broken_believe(own: lane.Lane, outcome: Any, lease: Any, now: float) -> Any:
            self.at("lane", lease.delivery.device.pushkey)
            return believe(own, outcome, lease, now)

        async def broken_settle(own: settling.Settling, lease: Any, outcome: Any, **more: Any) -> Any:
            self.at("task", lease.delivery.device.pushkey)
            return await settle(own, lease, outcome, **more)

        async def broken_acknowledge(own: settling.Settling, leases: Any) -> Any:
            self.at("settling", [lease.delivery.device.pushkey for lease in leases])
            return await acknowledge(own, leases)

        put_in(apns.ApnsProvider, "start", broken_start)
        put_in(apns, "classify", broken_classify)
        put_in(lane.Lane, "_believe", broken_believe)
        put_in(settling.Settling, "settle", broken_settle)
        put_in(settling.Settling, "_acknowledge", broken_acknowledge)

    def _in_spool(self) -> None:
        put, commit = Store.put, Committer._commit

        def broken_put(own: Store, *values: Any) -> Any:
            if self._put_breaks:
                self._put_breaks = False
                self.broken(KeyError)
            return put(own, *values)

        def broken_commit(own: Committer, jobs: Any) -> Any:
            if self.spots.get("spool thread") and any(job.size for job in jobs):
                self.broken()
            return commit(own, jobs)

        put_in(Store, "put", broken_put)
        put_in(Committer, "_commit", broken_commit)

    def _elsewhere(self) -> None:
        load, first_load = getattr(serve, "load"), getattr(check_config, "load")  # noqa: B009 - not exported
        families = metrics.Metrics.each_family
        watch, open_spool, fetch = Health.watch, spools.open_spool, google_fetch._fetch

        def broken_load(path: Path, *, environ: Mapping[str, str], sends: bool) -> Any:
            if "reload" in self.spots:  # the first one is not made here
                self.broken()
            return load(path, environ=environ, sends=sends)

        def broken_first_load(path: Path, *, environ: Mapping[str, str], sends: bool) -> Any:
            if "load" in self.spots:
                self.broken()
            return first_load(path, environ=environ, sends=sends)

        def broken_families(own: metrics.Metrics) -> Iterator[Family]:
            if "metrics" in self.spots:
                self.broken()
            return families(own)

        async def broken_watch(own: Health, *more: Any) -> None:
            if "main" in self.spots:
                await asyncio.sleep(0.5)
                self.broken()
            if "abort" in self.spots:
                await asyncio.sleep(0.5)
                self._abort(self.text)
            await watch(own, *more)

        async def broken_open(*values: Any, **more: Any) -> Any:
            if "start" in self.spots:
                self.broken()
            return await open_spool(*values, **more)

        def broken_fetch(*values: Any, **more: Any) -> Any:
            if "token" in self.spots:
                self.broken()
            return fetch(*values, **more)

        put_in(serve, "load", broken_load)
        put_in(check_config, "load", broken_first_load)
        put_in(metrics.Metrics, "each_family", broken_families)
        put_in(Health, "watch", broken_watch)
        put_in(gateway, "open_spool", broken_open)
        put_in(google_fetch, "_fetch", broken_fetch)

    def _abort(self, text: str) -> None:
        """Die as after a fault in C code: with secrets in arguments and locals."""
        local = text.encode()
        assert local
        os.abort()

    def _break_the_loop(self) -> None:
        """What an event loop, the interpreter and careless libraries tell of faults that nobody awaits."""
        loop, text = asyncio.get_running_loop(), self.text

        def raising(*_: object) -> None:
            raise RuntimeError(text)

        async def lost(_: str) -> None:
            raising()

        class Fragile:
            def __repr__(self) -> str:
                return text

            def __del__(self) -> None:
                raising()

        loop.call_soon(raising, text)
        loop.call_soon(functools.partial(raising, text))
        loop.call_later(0.01, functools.partial(raising, text))
        loop.create_task(lost(text), name=text)
        loop.call_exception_handler({"message": f"about {text}", "protocol": Fragile()})
        threading.Thread(target=raising, args=(text,), name="a thread").start()
        warnings.warn(text, stacklevel=1)
        logging.getLogger("careless").error(f"failed for {text}")
        logging.getLogger("careless").error("failed for %s", text)
        logging.getLogger("careless").exception(ValueError(text))
        loop.call_soon(time.sleep, 0.2)  # slow, for the debug mode of event loops


def put_in(owner: Any, name: str, value: object) -> None:
    """In the place of what is there."""
    assert hasattr(owner, name), name
    setattr(owner, name, value)


def pushkey_of(notification: Any) -> str:
    devices = getattr(notification, "devices", ()) or (getattr(notification, "device", None),)
    return str(getattr(devices[0], "pushkey", ""))


def _to_a_file(pushkey: str) -> None:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(pushkey.encode())


def _to_a_name(pushkey: str) -> None:
    Path(tempfile.gettempdir(), pushkey).touch()


def _to_an_answer(pushkey: str) -> None:
    raise RequestError(400, "Invalid data format", details={"reason": pushkey})


def _to_a_thread(pushkey: str) -> None:
    thread = threading.Thread(target=time.sleep, args=(30,), daemon=True)
    thread.start()
    Path(f"/proc/self/task/{thread.native_id}/comm").write_text(pushkey[:15])


PLANTED: Mapping[str, Callable[[str], object]] = {
    "stderr": lambda pushkey: sys.stderr.write(f"{pushkey}\n"),
    "stdout": lambda pushkey: sys.stdout.write(f"{pushkey}\n"),
    "log": lambda pushkey: structlog.get_logger("x").error("x", device=pushkey),
    "log, cut": lambda pushkey: structlog.get_logger("x").error("x", device=reprlib.repr(pushkey)),
    "log, base64": lambda pushkey: structlog.get_logger("x").error("x", at=base64.b64encode(b"x" + pushkey.encode())),
    "log, hex": lambda pushkey: structlog.get_logger("x").error("x", at=pushkey.encode().hex()),
    "file": _to_a_file,
    "name of a file": _to_a_name,
    "answer": _to_an_answer,
    "thread": _to_a_thread,
}


if __name__ == "__main__":
    Plan(Path(sys.argv[1])).install()
    sys.argv = ["pushgate", *sys.argv[2:]]
    cli.main()
