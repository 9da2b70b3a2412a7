"""`openssl s_client` for tests: callers that negotiate exactly what they are told to."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import PIPE
from pathlib import Path

from msgspec import Struct

E_REZEPT = (
    *("-tls1_2", "-curves", "brainpoolP256r1:brainpoolP384r1:prime256v1:secp384r1"),
    *(
        "-cipher",
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
    ),
    *("-sigalgs", "ECDSA+SHA384:ECDSA+SHA256:RSA+SHA384:RSA+SHA256"),
)
"""The TLS of the E-Rezept service: 1.2 only, no X25519, no RSA-PSS."""


class Said(Struct, frozen=True):
    """What came of a connection."""

    status: int
    """Of the answer; 0 where there was none."""
    body: bytes
    log: str
    """What s_client tells of the handshake."""

    @property
    def is_resumed(self) -> bool:
        return "\nReused, " in self.log

    @property
    def cipher(self) -> str:
        found = re.search(r"(?:New|Reused), [^,]+, Cipher is (\S+)", self.log)
        return found[1] if found else ""

    def of(self, what: str) -> str:
        """A line such as `Peer signature type`, without its name."""
        found = re.search(rf"^{what}: (.*)$", self.log, re.M)
        return found[1] if found else ""


async def s_client(
    port: int, request: bytes, *options: str | Path, ca_file: Path, caller: tuple[Path, Path] | None = None
) -> Said:
    """One connection that checks the server's certificate, sends the request and reads to the end."""
    shown = ("-cert", caller[0], "-key", caller[1]) if caller else ()
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"),
        *("-CAfile", ca_file, "-verify_return_error", "-verify_hostname", "localhost", "-ign_eof", *shown, *options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    ending = asyncio.get_running_loop().call_later(15, process.kill)
    out, err = await process.communicate(request)
    ending.cancel()
    at = out.find(b"HTTP/1.1 ")
    log = (out[:at] if at >= 0 else out) + b"\n" + err
    head, _, rest = out[at:].partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: (\d+)\r?$", head, re.M)
    body = rest[: int(length[1])] if length else rest
    return Said(int(head.split()[1]) if at >= 0 else 0, body if at >= 0 else b"", log.decode(errors="replace"))
