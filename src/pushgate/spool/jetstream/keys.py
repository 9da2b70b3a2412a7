"""Which keys what waits may be sealed with: written down in the shared bucket, so that none is given up unseen.

Only ids of keys are kept, each for as long as something that it has sealed may wait.
"""

from __future__ import annotations

from pushgate.errors import SpoolUnusable
from pushgate.spool.cipher import Cipher
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.layout import Layout

KEPT_S = 25 * 3600
"""Written anew every few seconds: what was sealed before the last time is gone after 24 hours."""
_DIGITS = 8
_NO_KEY = "no-key"


async def settle_keys(js: JetStream, layout: Layout, cipher: Cipher) -> None:
    """Write down which key will seal. Raises `SpoolUnusable` where something may wait that none of ours opens."""
    info = await js.ask(f"STREAM.INFO.{layout.name}")
    if info["state"]["messages"]:
        known = {each.hex() for each in cipher.ids}
        async for messages in js.all_of(layout.state_bucket, layout.state("sealed-by.*")):
            for message in messages:
                key = message.value("Nats-Subject")[-_DIGITS:]
                if key not in known:
                    raise SpoolUnusable(
                        f"deliveries wait in NATS that may be sealed with a key that is not given (its id: {key}) -> "
                        "give it too, as a further line of spool.encryption_key_file, until they are sent, 24 hours at "
                        f"most; where it is lost, set another spool.nats.name than {layout.name}"
                    )
    await write_key_down(js, layout, cipher)


async def write_key_down(js: JetStream, layout: Layout, cipher: Cipher) -> None:
    """Say that our key seals, or that there is none. Fails where nothing can be written."""
    header = protocol.headers({"Nats-TTL": f"{KEPT_S}s"})
    subject = f"sealed-by.{cipher.sealing_id.hex()}" if cipher.sealing_id else _NO_KEY
    await js.publish(layout.state(subject), b"", header=header)
