"""`pushgate demo`: the whole way from request to phone, on this machine, without a configuration."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, cast

import uvloop
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pushgate import cli, logs
from pushgate.client import PushGatewayClient
from pushgate.demo import Demo, Seen, gateway_url, running_gateway
from pushgate.gateway import Ports
from pushgate.stage import APNS_APP_ID, Stage, set_stage

LEAST_WIDTH = 110
"""Columns of the table: also where the output goes to a file or a narrow window."""
EVENT_ID = "$mine:example.org"
NEW_EVENT_ID = "$mine-'$(date +%s%N)':example.org"
"""The same inside a text in single quotes: the shell makes it anew at each call."""


def demo(
    *,
    keep: Annotated[bool, Parameter(help="Leave it running and print a curl command that works.")] = False,
) -> int:
    """Start a gateway and the emulators of Apple and Google, send through all three endpoints, show what arrived.

    Exits 0 when every phone got exactly what was meant for it, 1 otherwise. Its files are gone when it ends.
    """
    logs.configure(level="warning", form="console")
    with tempfile.TemporaryDirectory(prefix="pushgate-demo-") as folder:
        try:
            return uvloop.run(_play(Path(folder), keep=keep))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return cli.FAILED  # ended before it had shown everything


async def _play(folder: Path, *, keep: bool) -> int:
    """Play, and wait if asked to. SIGTERM cancels it, as SIGINT does: keys of the folder must not stay behind."""
    this = cast(asyncio.Task[int], asyncio.current_task())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    console = Console(width=max(Console().width, LEAST_WIDTH), highlight=False, markup=False)
    async with set_stage(folder) as stage, running_gateway(stage) as ports:
        console.print(f"gateway    {gateway_url(ports)} (mutual TLS, spool on disk)")
        console.print(f"emulators  APNs https://localhost:{stage.apns.port}, FCM https://localhost:{stage.fcm.port}\n")
        async with PushGatewayClient(
            gateway_url(ports),
            cert_file=str(stage.caller_cert_file),
            key_file=str(stage.caller_key_file),
            ca_file=str(stage.ca_file),
        ) as client:
            performance = Demo(stage, client)
            seen = await performance.play()
        _show(console, seen)
        right = all(each.is_right for each in seen)
        console.print("\nEvery phone got exactly what was meant for it." if right else "\nNot what was expected.")
        if keep:
            _explain(console, stage, ports, pushkey=performance.alice.device.pushkey)
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return cli.DONE if right else cli.FAILED


def _show(console: Console, seen: Sequence[Seen]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "phone", "sent to", "what came of it"):
        table.add_column(title, overflow="fold")
    for each in seen:
        got = each.got if each.is_right else f"{each.got}\n(expected: {each.expected})"
        table.add_row("ok" if each.is_right else "NO", each.who, each.endpoint, got)
    console.print(table)


def _explain(console: Console, stage: Stage, ports: Ports, *, pushkey: str) -> None:
    """Commands that can be copied, with this run's ports and files."""
    notification = {
        "notification": {
            "event_id": EVENT_ID,
            "content": {"msgtype": "m.text", "body": "Hello"},
            "devices": [{"app_id": APNS_APP_ID, "pushkey": pushkey}],
        }
    }
    files = f"--cacert {stage.ca_file} --cert {stage.caller_cert_file} --key {stage.caller_key_file}"
    console.print("\nIt goes on until Ctrl-C. Send something, each time with a new event_id (a repeat is not sent):\n")
    header = "-H 'Content-Type: application/json'"
    body = json.dumps(notification).replace(EVENT_ID, NEW_EVENT_ID)
    print(f"curl {files} {header} -d '{body}' {gateway_url(ports)}notify")
    console.print("\nSee what the phones got, Apple's and Google's:\n")
    for port in (stage.apns.port, stage.fcm.port):
        print(f"curl --silent --cacert {stage.ca_file} https://localhost:{port}/devices | python3 -m json.tool")
    console.print(f"\nMetrics: http://127.0.0.1:{ports.management}/metrics")
