"""The command line: which commands there are. What each does stands in `commands`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

from cyclopts import App, CycloptsError, Parameter

from pushgate import __version__

DONE, FAILED, USAGE = 0, 1, 2

app = App(
    name="pushgate",
    default_parameter=Parameter(negative=()),
    version=f"pushgate {__version__}",
    help="A Push Gateway: takes notifications from services, keeps them on disk, hands them to Apple and Google."
    "\n\nStart with `pushgate demo`: it needs no configuration and shows the whole way from request to phone.",
    help_epilogue="Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.",
)
app.command("pushgate.commands.serve:serve", name="serve")
app.command("pushgate.commands.health:health", name="health")
app.command("pushgate.commands.check_config:check_config", name="check-config")
app.command("pushgate.commands.doctor:doctor", name="doctor")
app.command("pushgate.commands.init:init", name="init")
app.command("pushgate.commands.schema:schema", name="schema")
app.command("pushgate.commands.demo:demo", name="demo")
app.command("pushgate.commands.emulate:emulate", name="emulate")
app.command("pushgate.commands.send:send", name="send")
app.command("pushgate.commands.keys:app", name="keys")
app.command("pushgate.commands.rejections:app", name="rejections")
app.command("pushgate.commands.explain:explain", name="explain")
app.command("pushgate.commands.bench:bench", name="bench")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    asked = sys.argv[1:] if arguments is None else arguments
    if not asked or asked[0] in ("--help", "-h"):
        for name in list(app):
            _ = app[name]  # imports the command: the overview shows what each does
    try:
        result = app(asked, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return USAGE
    except KeyboardInterrupt:
        return FAILED
    return result if isinstance(result, int) else DONE


def main() -> None:
    """Entry point of the `pushgate` command."""
    sys.excepthook = _unexpected
    sys.exit(run())


def _unexpected(kind: type[BaseException], fault: BaseException | None, trace: TracebackType | None) -> None:
    """A bug: its type and its places, and not what it says, for that may be a secret of the configuration."""
    frames = traceback.extract_tb(trace)[-8:]
    places = [f"  {each.filename.rpartition('/')[2]}:{each.lineno} {each.name}" for each in frames]
    sys.stderr.write("\n".join([f"pushgate failed unexpectedly: {kind.__name__}", *places, ""]))
