"""pushgate: a Push Gateway between backend services and the push providers of phones."""

__version__ = "0.1.0"
