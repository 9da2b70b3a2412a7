"""A stage to try pushgate on: the emulators of both providers, keys and certificates for them, and a configuration.

Everything lives in one folder and on loopback. `demo` plays on it, `emulate` leaves it to others, tests use it too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from pushgate.emulator import ApnsEmulator, FcmEmulator, Landscape, Temper

BUNDLE_ID = "org.example.health"
APNS_APP_ID = "org.example.health.apns"
PROJECT_ID = "example-project"
FCM_APP_ID = "example-project.app.firebase"
CALLER = "erp.example.org"

_CONFIGURATION = """\
# A gateway between the emulators of this stage and a caller with the certificate {caller_cert}
[api]
listen = "127.0.0.1:{port}"
auth = "mtls"
[api.tls]
cert_file = "{server_cert}"
key_file = "{server_key}"
client_ca_file = "{ca}"
[management]
listen = "127.0.0.1:{management_port}"
[spool]
url = "sqlite:spool.db"
[apps."{apns_app}"]
provider = "apns"
bundle_id = "{bundle}"
key_file = "{apns_key}"
key_id = "{key_id}"
team_id = "{team_id}"
endpoint = "https://localhost:{apns_port}"
ca_file = "{ca}"
[apps."{fcm_app}"]
provider = "fcm"
project_id = "{project}"
credentials_file = "{service_account}"
endpoint = "https://localhost:{fcm_port}"
ca_file = "{ca}"
[[clients]]
name = "erp"
san = "{caller}"
"""


class Stage(Struct, frozen=True):
    """The running emulators, and where the files are."""

    apns: ApnsEmulator
    fcm: FcmEmulator
    landscape: Landscape
    """The certificates and keys of all of it, for whoever adds to the stage."""
    folder: Path
    ca_file: Path
    caller_cert_file: Path
    caller_key_file: Path
    config_file: Path


@asynccontextmanager
async def set_stage(
    folder: Path,
    *,
    apns_port: int = 0,
    fcm_port: int = 0,
    port: int = 0,
    management_port: int = 0,
    temper: Temper = Temper.STRICT,
    more: str = "",
) -> AsyncIterator[Stage]:
    """Start both emulators and write what a gateway and a caller need. Port 0: any that is free.

    `more` is TOML with tables that the stage's configuration does not have, put behind it. Raises `OSError` when a
    port is taken or the folder cannot be written.
    """
    land = Landscape(folder, project_id=PROJECT_ID)
    apns = ApnsEmulator(
        tls=land.server_tls(client_certificates=True), temper=temper, keys=land.apns_keys, topics=[BUNDLE_ID]
    )
    fcm = FcmEmulator(
        tls=land.server_tls(),
        temper=temper,
        project_id=PROJECT_ID,
        service_account_email=land.service_account_email,
        public_key=land.service_account_public_key,
    )
    await apns.start(port=apns_port)
    try:
        await fcm.start(port=fcm_port)
        try:
            caller_cert, caller_key = land.write_caller_certificate(CALLER)
            config_file = folder / "pushgate.toml"
            config_file.write_text(
                _CONFIGURATION.format(
                    port=port,
                    management_port=management_port,
                    server_cert=land.server_cert_file.name,
                    server_key=land.server_key_file.name,
                    ca=land.ca_file.name,
                    apns_app=APNS_APP_ID,
                    bundle=BUNDLE_ID,
                    apns_key=land.apns_key_file.name,
                    key_id=land.apns_key_id,
                    team_id=land.apns_team_id,
                    apns_port=apns.port,
                    fcm_app=FCM_APP_ID,
                    project=PROJECT_ID,
                    service_account=land.write_service_account(token_url=fcm.token_url).name,
                    fcm_port=fcm.port,
                    caller=CALLER,
                    caller_cert=caller_cert.name,
                )
                + more
            )
            yield Stage(apns, fcm, land, folder, land.ca_file, caller_cert, caller_key, config_file)
        finally:
            await fcm.close()
    finally:
        await apns.close()
