"""`pushgate doctor`: what keeps this configuration from working here and now, and the next step for each of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.status import Status
from rich.text import Text

from pushgate import cli, logs
from pushgate.commands.keys import Obstacle, explained
from pushgate.config import Settings, load
from pushgate.doctor import Checkup, Finding, State
from pushgate.doctor.checkup import faults, found_anything_wrong
from pushgate.errors import ConfigError

STYLES = {State.OK: "green", State.WARNING: "yellow", State.WRONG: "bold red", State.NOT_CHECKED: "dim"}


@explained
def doctor(
    *,
    config: Annotated[Path, Parameter(help="The configuration (TOML) of the gateway.")],
    app_ids: Annotated[
        tuple[str, ...] | None,
        Parameter(name="--app", help="Only this app, as the configuration calls it in [apps]. May be given again."),
    ] = None,
    json: Annotated[bool, Parameter(help="Answer as one line of JSON.")] = False,
    offline: Annotated[bool, Parameter(help="Ask no provider: look at files, spool and gateway only.")] = False,
) -> int:
    """Find what is wrong: configuration, clock, keys, certificates, spool, network, and what each provider says.

    Each app sends one request to a random pushkey that is nobody's. What Apple or Google says of it shows whether key,
    topic or project are right. No phone gets anything, and a gateway that runs is not disturbed. Run it as the user of
    the gateway, on its machine.

    After a change: `pushgate doctor --config pushgate.toml`. Every line that is not ok has its next step beneath.
    """
    try:
        settings = load(config, environ=os.environ)
    except ConfigError as error:
        _show(faults(error.faults), json=json)
        return cli.USAGE
    _check_apps(app_ids or (), settings)
    if os.geteuid() == 0 and not json:
        print("note: root can read and write everything: run it as the user of the gateway", file=sys.stderr)
    logs.configure(level="error", form="console")
    with _progress() as tell:
        findings = asyncio.run(Checkup(settings, apps=app_ids or (), offline=offline, tell=tell).run())
    _show(findings, json=json)
    return cli.FAILED if found_anything_wrong(findings) else cli.DONE


def _check_apps(asked: Sequence[str], settings: Settings) -> None:
    for each in asked:
        if each not in settings.apps:
            known = ", ".join(settings.apps) or "none"
            raise Obstacle(f"--app: no app {each!r} is configured", mend=f"write it as in [apps]; there are: {known}")


class _progress(AbstractContextManager[Callable[[str], None]]):  # noqa: N801 - used as a function is
    """On a terminal: what is looked at just now. Elsewhere nothing."""

    def __init__(self) -> None:
        self._status = Status("checking", console=Console(stderr=True, markup=False))

    def __enter__(self) -> Callable[[str], None]:
        if sys.stderr.isatty():
            self._status.start()
        return lambda what: self._status.update(Text(f"checking {what}"))

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def _show(findings: Sequence[Finding], *, json: bool) -> None:
    if json:
        print(msgspec.json.encode({"ok": not found_anything_wrong(findings), "checks": findings}).decode())
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    wide = max(len(state) for state in State)
    far = max(len(each.check) for each in findings)
    for each in findings:
        line = Text(f"{each.state:<{wide}}", style=STYLES[each.state])
        line.append(f"  {each.check:<{far}}  ", style="default")
        line.append(f"{each.about}: {each.seen}" if each.about else each.seen, style="default")
        console.print(line)
        if each.next_step:
            console.print(Text(f"{'':<{wide}}  -> {each.next_step}"))
    counts = {state: sum(each.state is state for each in findings) for state in State}
    console.print(Text("\n" + ", ".join(f"{number} {state}" for state, number in counts.items() if number)))
