"""The FCM emulator: Google's token endpoint and POST /v1/projects/<project>/messages:send, with Google's errors."""

from __future__ import annotations

import re
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pushgate.emulator import fcm_rules, google_errors
from pushgate.emulator.backstage import Backstage
from pushgate.emulator.devices import Received
from pushgate.emulator.exchange import Answer, ConnectionRules, Request
from pushgate.emulator.google_errors import Refusal
from pushgate.emulator.listener import Listener
from pushgate.emulator.script import Step, Temper
from pushgate.emulator.token_endpoint import SCOPES, TOKEN_PATH, OAuthRefusal, TokenEndpoint

MAX_KEPT_BODY_BYTES = 16 * 1024
"""No temper takes more; it bounds what the inboxes can hold."""
_SEND_PATH = re.compile(r"/v1/projects/([^/]+)/messages:send")
_NOT_FOUND_PAGE = b"<!DOCTYPE html>\n<html lang=en>\n<title>Error 404 (Not Found)!!1</title>\n"


class FcmEmulator:
    """FCM and its token endpoint on one port. `start` it, let a service account's token_uri be `token_url`.

    public_key      of the service account, as PEM or object
    token_lifetime_s    what `expires_in` says; the access token dies then by `clock`
    dead_prefix     tokens that begin with it are dead, as are those killed: 404 UNREGISTERED
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        temper: Temper = Temper.STRICT,
        project_id: str,
        service_account_email: str,
        public_key: bytes | RSAPublicKey,
        clock: Callable[[], float] = time.time,
        token_lifetime_s: int = 3600,
        dead_prefix: str = "dead",
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        rules: ConnectionRules | None = None,
    ) -> None:
        self._listener = Listener(tls=tls, open_session=lambda _: self._session, count=self._count)
        self._backstage = Backstage(
            temper=temper,
            dead_prefix=dead_prefix,
            rules=rules or ConnectionRules(max_streams=100),
            entrance=self._listener,
            clock=clock,
        )
        self._tokens = TokenEndpoint(
            service_account_email=service_account_email,
            public_key=public_key,
            clock=clock,
            lifetime_s=token_lifetime_s,
        )
        self._session = _FcmSession(self._backstage, project_id=project_id, tokens=self._tokens, new_id=new_id)

    def _count(self, name: str) -> None:
        self._backstage.count(name)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. Raises `OSError` when the port is taken."""
        await self._listener.start(host, port)
        self._session.token_url = f"https://{host}:{self.port}{TOKEN_PATH}"

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
    def token_url(self) -> str:
        """The token endpoint's address, for a service account's token_uri."""
        return self._session.token_url

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
        """What happened so far: requests, accepted, delivered, token_requests, status.<n>, reason.<r>, fault.<f>, …"""
        return dict(self._backstage.counts)

    def devices(self) -> Mapping[str, Sequence[Received]]:
        """What is kept of what each device got: token -> messages, oldest first; topics begin with /topics/."""
        return self._backstage.devices.inboxes()

    def kill(self, token: str) -> None:
        """The app was removed from this device."""
        self._backstage.devices.kill([token], at=self._backstage.clock())

    def script(self, token: str, steps: Sequence[Step]) -> None:
        """What this token's next requests get; "*" for every other token, "/token" for the token endpoint."""
        self._backstage.scripts.put(token, steps)

    def revoke_access_tokens(self) -> None:
        """Every access token given out so far is void: 401."""
        self._tokens.revoke()


class _FcmSession:
    """Every connection: FCM keeps nothing of a single one."""

    def __init__(
        self, backstage: Backstage, *, project_id: str, tokens: TokenEndpoint, new_id: Callable[[], str]
    ) -> None:
        self._backstage = backstage
        self._project_id = project_id
        self._tokens = tokens
        self._new_id = new_id
        self.token_url = ""

    @property
    def rules(self) -> ConnectionRules:
        return self._backstage.rules

    @property
    def max_streams(self) -> int:
        return self.rules.max_streams

    def answer(self, request: Request) -> Answer:
        control = self._backstage.control(request)
        if control is not None:
            return control
        if request.path.partition("?")[0] == TOKEN_PATH:
            return self._token_request(request)
        self._backstage.count("requests")
        answer = self._push(request)
        self._backstage.count_answer(answer)
        return answer

    def _token_request(self, request: Request) -> Answer:
        self._backstage.count("token_requests")
        step = self._backstage.scripts.take_own(TOKEN_PATH) or Step()
        if not step.succeeds:
            return step.play(OAuthRefusal(step.reason or "internal_failure", "scripted", step.status).answer())
        answer = self._tokens.answer(request, url=self.token_url)
        return step.play(answer) if answer.status == 200 else answer

    def _push(self, request: Request) -> Answer:
        project = _SEND_PATH.fullmatch(request.path.partition("?")[0])
        if project is None or request.method != "POST":
            return Answer(status=404, headers=(("content-type", "text/html; charset=UTF-8"),), body=_NOT_FOUND_PAGE)
        strict = self._backstage.temper is not Temper.ACCEPT_ALL
        fault = self._caller_fault(request, project.group(1)) if strict else None
        send = self._read(request)
        if not isinstance(send, fcm_rules.Send):
            return self._refuse(fault or send)
        if fault is None and strict:
            fault = fcm_rules.type_fault(send) or next(fcm_rules.value_faults(send), None)
        scripts = self._backstage.scripts
        step = scripts.take(send.target) if self._backstage.temper is Temper.SCRIPTED else None
        if step is None:
            if fault is not None:
                return self._refuse(fault)
            step = scripts.take(send.target) or Step()
        return self._perform(step, request, send)

    def _caller_fault(self, request: Request, project_id: str) -> Refusal | None:
        authorization = request.value("authorization")
        if not authorization:
            return google_errors.unauthenticated("CREDENTIALS_MISSING")
        scheme, _, value = authorization.partition(" ")
        token = self._tokens.token(value.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            return google_errors.unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED")
        if token.expires_at <= self._backstage.clock():
            return google_errors.unauthenticated("ACCESS_TOKEN_EXPIRED")
        if not set(token.scopes) & set(SCOPES):
            return google_errors.insufficient_scope()
        return google_errors.permission_denied(project_id) if project_id != self._project_id else None

    def _read(self, request: Request) -> fcm_rules.Send | Refusal:
        if request.body_bytes > MAX_KEPT_BODY_BYTES:
            return google_errors.invalid("Android message is too big")
        return fcm_rules.read(request.body)

    def _perform(self, step: Step, request: Request, send: fcm_rules.Send) -> Answer:
        name = f"projects/{self._project_id}/messages/"
        if not step.succeeds:
            if step.deliver and not send.validate_only:
                self._deliver(request, send, name + self._message_id())
            return step.play(self._scripted(step, name))
        if self._backstage.devices.died_at(send.target, now=self._backstage.clock()) is not None:
            return self._refuse(google_errors.scripted(404, "UNREGISTERED", project_id=self._project_id))
        name += "fake_message_id" if send.validate_only else self._message_id()
        if not send.validate_only:
            self._deliver(request, send, name)
        return step.play(_taken(name))

    def _scripted(self, step: Step, name: str) -> Answer:
        if step.status == 200:
            return _taken(name + self._message_id())
        return self._refuse(google_errors.scripted(step.status, step.reason, project_id=self._project_id))

    def _deliver(self, request: Request, send: fcm_rules.Send, name: str) -> None:
        received = Received(
            received_at=self._backstage.clock(),
            headers={name: value for name, value in request.headers if name != "authorization"},
            payload=send.message,
            name=name,
        )
        self._backstage.deliver(send.target, received)

    def _message_id(self) -> str:
        return f"0:{int(self._backstage.clock() * 1_000_000)}%{self._new_id()}"

    def _refuse(self, refusal: Refusal) -> Answer:
        if refusal.reason:
            self._backstage.count(f"reason.{refusal.reason}")
        return refusal.answer()


def _taken(name: str) -> Answer:
    body = msgspec.json.format(msgspec.json.encode({"name": name}), indent=2) + b"\n"
    return Answer(headers=(("content-type", "application/json; charset=UTF-8"),), body=body)
