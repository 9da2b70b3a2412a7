"""The garbage collector of a process that serves: it looks rarely, and never at what was there from the start.

Nearly all that a gateway makes is freed by counting references. Looking for cycles with Python's own thresholds takes a
fifth of the CPU under load (docs/explanation/performance.md).
"""

from __future__ import annotations

import gc

YOUNG = 50_000
"""New containers, less those that are gone, until it looks at them."""
TIMES_BEFORE_MIDDLE_AGE = 20
TIMES_BEFORE_ALL = 50


def settle() -> None:
    """To be called when everything is built: modules, configuration, providers."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, TIMES_BEFORE_MIDDLE_AGE, TIMES_BEFORE_ALL)
