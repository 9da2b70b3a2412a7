"""Settings from one TOML file and the environment, checked whole before anything runs.

    settings      the tables and their keys, and `load`; listen, …_table: tables that need more room
    environment   PUSHGATE_… over the file
    faults, rules every fault at once, with its place and the way to mend it
    keys          which keys there are; reference: the page that lists them; summary: what would run

Opens no socket and no database.
"""

from pushgate.config.api_table import Api
from pushgate.config.client_table import Client
from pushgate.config.settings import AppSettings, Settings, load

__all__ = ["Api", "AppSettings", "Client", "Settings", "load"]
