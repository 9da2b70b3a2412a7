"""The APNs emulator: Apple's statuses, reasons and connection rules for POST /3/device/<token>."""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec import Struct

from pushgate.emulator import apns_rules
from pushgate.emulator.apns_certificate import PushCertificate
from pushgate.emulator.apns_token import Keys, ProviderAuthentication, Refusal, load_keys
from pushgate.emulator.backstage import Backstage
from pushgate.emulator.devices import Received
from pushgate.emulator.exchange import Answer, ConnectionRules, Peer, Request, json_answer
from pushgate.emulator.listener import Listener
from pushgate.emulator.script import Step, Temper

Environment = Literal["production", "sandbox"]

MAX_KEPT_BODY_BYTES = 16 * 1024
"""No temper takes more; it bounds what the inboxes can hold."""
USUAL_REASONS: Mapping[int, str] = {
    400: "BadDeviceToken",
    403: "InvalidProviderToken",
    404: "BadPath",
    405: "MethodNotAllowed",
    410: "Unregistered",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}
"""The reason of a scripted status that names none."""


class _Apple(Struct, frozen=True):
    """What every connection shares."""

    keys: Keys
    key_environments: Mapping[str, str]
    topics: frozenset[str]
    environment: str
    foreign_prefix: str
    new_id: Callable[[], str]
    backstage: Backstage


class ApnsEmulator:
    """APNs on a port of its own. `start` it, point the gateway's `endpoint` at it, read `devices()`.

    keys              (key id, team id) -> public key, as PEM or object
    topics            the bundle ids of the team
    environment       tokens that begin with `foreign_prefix` belong to the other one: BadDeviceToken
    key_environments  key id -> environment, for keys that are restricted to one
    dead_prefix       tokens that begin with it are dead, as are those killed: 410 Unregistered
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        temper: Temper = Temper.STRICT,
        keys: Mapping[tuple[str, str], bytes | EllipticCurvePublicKey],
        topics: Collection[str],
        environment: Environment = "production",
        clock: Callable[[], float] = time.time,
        key_environments: Mapping[str, Environment] | None = None,
        dead_prefix: str = "dead",
        foreign_prefix: str = "0badc0de",
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        rules: ConnectionRules | None = None,
    ) -> None:
        self._listener = Listener(tls=tls, open_session=self._open, count=self._count)
        self._backstage = Backstage(
            temper=temper,
            dead_prefix=dead_prefix,
            rules=rules or ConnectionRules(),
            entrance=self._listener,
            clock=clock,
        )
        self._apple = _Apple(
            keys=load_keys(keys),
            key_environments=key_environments or {},
            topics=frozenset(topics),
            environment=environment,
            foreign_prefix=foreign_prefix,
            new_id=new_id,
            backstage=self._backstage,
        )
        self._device_topics: dict[str, str] = {}

    def _count(self, name: str) -> None:
        self._backstage.count(name)

    def _open(self, peer: Peer) -> _ApnsSession:
        return _ApnsSession(self._apple, peer=peer, device_topics=self._device_topics)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. Raises `OSError` when the port is taken."""
        await self._listener.start(host, port)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        await self._listener.close()

    @property
    def listener(self) -> Listener:
        """Its port: the door, the certificate, and every connection."""
        return self._listener

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port

    @property
    def temper(self) -> Temper:
        """How requests are treated; may be set at any time."""
        return self._backstage.temper

    @temper.setter
    def temper(self, temper: Temper) -> None:
        self._backstage.temper = temper

    @property
    def rules(self) -> ConnectionRules:
        """Limits and faults of connections; may be replaced at any time."""
        return self._backstage.rules

    @rules.setter
    def rules(self, rules: ConnectionRules) -> None:
        self._backstage.rules = rules

    @property
    def counts(self) -> Mapping[str, int]:
        """What happened so far: requests, accepted, delivered, status.<n>, reason.<r>, fault.<f>, connections, …"""
        return dict(self._backstage.counts)

    def devices(self) -> Mapping[str, Sequence[Received]]:
        """What is kept of what each device got: token -> messages, oldest first."""
        return self._backstage.devices.inboxes()

    def kill(self, token: str) -> None:
        """The app was removed from this device, now."""
        self._backstage.devices.kill([token], at=self._backstage.clock())

    def register(self, token: str, *, topic: str) -> None:
        """This device belongs to one app only: other topics get DeviceTokenNotForTopic. Revives a dead device."""
        self._backstage.devices.revive([token])
        self._device_topics[token] = topic

    def script(self, token: str, steps: Sequence[Step]) -> None:
        """What this token's next requests get; "*" for every token without steps of its own."""
        self._backstage.scripts.put(token, steps)


class _ApnsSession:
    """One connection: its authentication, and its requests."""

    def __init__(self, apple: _Apple, *, peer: Peer, device_topics: Mapping[str, str]) -> None:
        self._apple = apple
        self._backstage = apple.backstage
        self._http2 = peer.http2
        self._device_topics = device_topics
        self._certificate = PushCertificate.load(peer.certificate_der) if peer.certificate_der else None
        self._authentication = ProviderAuthentication(
            keys=apple.keys, environment=apple.environment, key_environments=apple.key_environments
        )

    @property
    def rules(self) -> ConnectionRules:
        return self._backstage.rules

    @property
    def max_streams(self) -> int:
        """Apple: one stream until the connection has shown a valid provider token."""
        trusted = self._certificate is not None or self._authentication.established
        allowed = self.rules.max_streams
        return allowed if trusted or self._backstage.temper is Temper.ACCEPT_ALL else min(allowed, 1)

    def answer(self, request: Request) -> Answer:
        control = self._backstage.control(request)
        if control is not None:
            return control
        self._backstage.count("requests")
        if not self._http2:
            return Answer(status=505)  # APNs speaks HTTP/2 only
        answer = self._push(request)
        self._backstage.count_answer(answer)
        return answer

    def _push(self, request: Request) -> Answer:
        apns_id = self._id_for(request)
        fault = apns_rules.path_fault(request)
        if fault is not None:
            return self._refuse(fault, apns_id)
        token = apns_rules.token_of(request)
        scripts = self._backstage.scripts
        step = scripts.take(token) if self._backstage.temper is Temper.SCRIPTED else None
        rule_fault = self._rule_fault(request, token)
        if step is None:
            if rule_fault is not None:
                return self._refuse(rule_fault, apns_id)
            step = scripts.take(token) or Step()
        return self._perform(step, request, token, apns_id)

    def _rule_fault(self, request: Request, token: str) -> Refusal | None:
        if self._backstage.temper is Temper.ACCEPT_ALL:
            too_large = request.body_bytes > MAX_KEPT_BODY_BYTES
            return Refusal(413, "PayloadTooLarge") if too_large else None
        topics, fault = self._authenticate(request)
        fault = apns_rules.duplicate_fault(request) or fault or apns_rules.topic_fault(request, topics)
        fault = fault or next(apns_rules.header_faults(request), None)
        fault = fault or next(apns_rules.payload_faults(request), None)
        if fault is None and self._apple.foreign_prefix and token.startswith(self._apple.foreign_prefix):
            fault = Refusal(400, "BadDeviceToken")
        wanted = self._device_topics.get(token)
        if fault is None and wanted not in (None, request.value("apns-topic") or topics.default):
            fault = Refusal(400, "DeviceTokenNotForTopic")
        return fault

    def _authenticate(self, request: Request) -> tuple[apns_rules.Topics, Refusal | None]:
        certificate = self._certificate
        if certificate is None:
            fault = self._authentication.fault(request.value("authorization"), now=self._backstage.clock())
            return apns_rules.Topics(allowed=self._apple.topics), fault
        default = certificate.topics[0] if len(certificate.topics) == 1 else ""
        topics = apns_rules.Topics(allowed=certificate.topics, default=default, by_certificate=True)
        if not certificate.topics:
            return topics, Refusal(403, "BadCertificate")
        if certificate.environments and self._apple.environment not in certificate.environments:
            return topics, Refusal(403, "BadCertificateEnvironment")
        return topics, None

    def _perform(self, step: Step, request: Request, token: str, apns_id: str) -> Answer:
        if not step.succeeds:
            if step.deliver:
                self._deliver(request, token, apns_id)
            return step.play(self._scripted(step, apns_id))
        now = self._backstage.clock()
        died_at = self._backstage.devices.died_at(token, now=now)
        if died_at is not None:
            return self._refuse(Refusal(410, "Unregistered"), apns_id, timestamp_ms=int(died_at * 1000))
        self._deliver(request, token, apns_id)
        headers: tuple[tuple[str, str], ...] = (("apns-id", apns_id),)
        if self._apple.environment == "sandbox":
            headers = (*headers, ("apns-unique-id", self._apple.new_id()))
        return step.play(Answer(headers=headers))

    def _scripted(self, step: Step, apns_id: str) -> Answer:
        if step.status == 200:
            return Answer(headers=(("apns-id", apns_id),))
        reason = step.reason or USUAL_REASONS.get(step.status, "")
        return self._refuse(Refusal(step.status, reason), apns_id, timestamp_ms=step.timestamp_ms)

    def _deliver(self, request: Request, token: str, apns_id: str) -> None:
        payload = apns_rules.decode_object(request.body)
        received = Received(
            received_at=self._backstage.clock(),
            headers={name: value for name, value in request.headers if name != "authorization"},
            payload=request.body.decode("utf-8", "replace") if payload is None else payload,
            apns_id=apns_id,
        )
        self._backstage.deliver(token, received)

    def _refuse(self, refusal: Refusal, apns_id: str, *, timestamp_ms: int = 0) -> Answer:
        if refusal.reason:
            self._backstage.count(f"reason.{refusal.reason}")
        body: dict[str, object] = {"reason": refusal.reason}
        if refusal.status == 410:
            body["timestamp"] = timestamp_ms or int(self._backstage.clock() * 1000)
        return json_answer(refusal.status, body, (("apns-id", apns_id),))

    def _id_for(self, request: Request) -> str:
        given = request.value("apns-id")
        return given if apns_rules.is_canonical_id(given) else self._apple.new_id()
