"""`pushgate schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import sys

from pushgate import cli
from pushgate.config import schema as config_schema


def schema() -> int:
    """Print the JSON Schema of the configuration.

    Editors that know TOML complete and check a configuration with it. Write it beside the configuration, and name it
    in the first line of that: `#:schema ./config.schema.json`. What files hold and what goes together no schema can
    tell: ask `pushgate check-config`.
    """
    sys.stdout.write(config_schema.shipped())
    return cli.DONE
