"""`pushgate emulate`: the emulators of Apple and Google, with keys, certificates and a configuration to use them."""

from __future__ import annotations

import asyncio
import json as json_text
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import uvloop
from cyclopts import Parameter

from pushgate import cli
from pushgate.emulator import Temper
from pushgate.stage import Stage, set_stage


def emulate(
    *,
    apns_port: Annotated[int, Parameter(help="Port of APNs. 0: any that is free.")] = 2197,
    fcm_port: Annotated[int, Parameter(help="Port of FCM and its token endpoint. 0: any that is free.")] = 2198,
    temper: Annotated[
        Temper, Parameter(help="How strict they are. Scripts can be posted to /script in any temper.")
    ] = (Temper.STRICT),
    folder: Annotated[
        Path | None, Parameter(help="Where keys, certificates and pushgate.toml are written. Default: a temporary one.")
    ] = None,
    json: Annotated[bool, Parameter(help="Say where everything is as one line of JSON.")] = False,
) -> int:
    """Emulate APNs and FCM over real TLS and HTTP/2 until Ctrl-C.

    Tokens that begin with `dead` are dead. What each device got is shown at /devices on both ports, counts at /counts.
    Point a gateway at them with the pushgate.toml that is written.
    """
    with ExitStack() as stack:
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pushgate-emulate-")))
        try:
            return uvloop.run(_emulate(where, apns_port=apns_port, fcm_port=fcm_port, temper=temper, json=json))
        except OSError as fault:
            print(f"cannot emulate: {fault}", file=sys.stderr)
            return cli.FAILED


async def _emulate(folder: Path, *, apns_port: int, fcm_port: int, temper: Temper, json: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with set_stage(
        folder, apns_port=apns_port, fcm_port=fcm_port, port=8443, management_port=8081, temper=temper
    ) as stage:
        print(_as_json(stage) if json else _as_text(stage), flush=True)
        await stop.wait()
    return cli.DONE


def _as_json(stage: Stage) -> str:
    return json_text.dumps(
        {
            "apns_port": stage.apns.port,
            "fcm_port": stage.fcm.port,
            "config_file": str(stage.config_file),
            "ca_file": str(stage.ca_file),
            "caller_cert_file": str(stage.caller_cert_file),
            "caller_key_file": str(stage.caller_key_file),
        }
    )


def _as_text(stage: Stage) -> str:
    return f"""\
APNs     https://localhost:{stage.apns.port}
FCM      https://localhost:{stage.fcm.port}
files    {stage.folder}

Start a gateway in front of them:
  pushgate serve --config {stage.config_file}
See what the devices got:
  curl --cacert {stage.ca_file} https://localhost:{stage.apns.port}/devices
Ctrl-C ends it."""
