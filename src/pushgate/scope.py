"""What the listener tells the application beside ASGI: keys of a request's scope."""

from __future__ import annotations

WHOLE = "pushgate.whole"
"""There where all of the body is here: reading it cannot block."""
