"""A gateway whose clock is shifted by as many seconds as a file says, at each moment.

    python tests/faults/shifted_clock.py FILE python -m pushgate serve --config …

Stands before the usual command. Only the time of day is shifted: the monotonic clock of the machine never steps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

LOOK_EVERY_S = 0.02


def shift(file: Path) -> None:
    """From now on `time.time` is shifted by what the file says."""
    real, monotonic = time.time, time.monotonic
    looked_at, seconds = -1.0, 0.0

    def shifted() -> float:
        nonlocal looked_at, seconds
        if (now := monotonic()) - looked_at > LOOK_EVERY_S:
            looked_at, seconds = now, float(file.read_text())
        return real() + seconds

    time.time = shifted


def set_clock(file: Path, seconds: float) -> None:
    """What a test does: at one stroke, for the gateway may look at any moment."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(file)


if __name__ == "__main__":
    shift(Path(sys.argv[1]))
    sys.argv = ["pushgate", *sys.argv[sys.argv.index("pushgate") + 1 :]]
    from pushgate.cli import main  # only now: some modules keep `time.time` as they find it

    main()
