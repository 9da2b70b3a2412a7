"""Emulators of APNs and FCM over real TLS and HTTP/2, written from Apple's and Google's rules, not from our client.

    ApnsEmulator    api.push.apple.com: POST /3/device/<token>
    FcmEmulator     fcm.googleapis.com and oauth2.googleapis.com: POST /v1/projects/<project>/messages:send, POST /token
    Temper          how strict they are
    Step, Fault     one scripted answer, and the ways to give none
    Door            what new connections find: nobody, silence, garbage
    Received        what a device got
    ConnectionRules limits and faults of whole connections
    Landscape       throw-away certificates and keys for all of it
    Flaw            what is wrong with a server's certificate

They meet the gateway over the wire only. Both serve control pages on their own port (see `backstage`).
"""

from pushgate.emulator.apns import ApnsEmulator
from pushgate.emulator.certificates import Flaw, Landscape
from pushgate.emulator.devices import Received
from pushgate.emulator.exchange import ConnectionRules, Door, Fault
from pushgate.emulator.fcm import FcmEmulator
from pushgate.emulator.script import Step, Temper

__all__ = [
    "ApnsEmulator",
    "ConnectionRules",
    "Door",
    "Fault",
    "FcmEmulator",
    "Flaw",
    "Landscape",
    "Received",
    "Step",
    "Temper",
]
