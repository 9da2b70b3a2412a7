"""The FCM emulator against clients that are not ours (google-auth, requests, httpx): tokens, every error, scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import requests
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request as AuthRequest
from google.oauth2.service_account import Credentials

from pushgate.emulator import Fault, FcmEmulator, Landscape, Step, Temper, token_endpoint

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
PROJECT = "emulated-project"
DEVICE = "fcm-token_1:APA91b"
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Caller:
    def __init__(self, emulator: FcmEmulator, landscape: Landscape, clock: Clock) -> None:
        self.emulator = emulator
        self.landscape = landscape
        self.clock = clock
        self.account = json.loads(landscape.write_service_account(token_url=emulator.token_url).read_text())
        self.http = httpx.AsyncClient(
            http2=True,
            http1=False,
            verify=landscape.client_tls(),
            base_url=f"https://127.0.0.1:{emulator.port}",
            timeout=5,
        )
        self.bearer = ""

    def assertion(self, **changes: object) -> str:
        now = int(self.clock.now)
        claims = {
            "iss": self.account["client_email"],
            "aud": self.emulator.token_url,
            "iat": now,
            "exp": now + 3600,
            "scope": SCOPE,
            **changes,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, self.account["private_key"], algorithm="RS256")

    async def token(self, **changes: object) -> httpx.Response:
        return await self.http.post("/token", data={"grant_type": GRANT, "assertion": self.assertion(**changes)})

    async def send(
        self, message: object = None, *, body: str | None = None, project: str = PROJECT, **extra: object
    ) -> httpx.Response:
        if not self.bearer:
            self.bearer = f"Bearer {(await self.token()).json()['access_token']}"
        request = {"message": {"token": DEVICE, "data": {"k": "v"}} if message is None else message, **extra}
        return await self.http.post(
            f"/v1/projects/{project}/messages:send",
            content=json.dumps(request) if body is None else body,
            headers={"authorization": self.bearer} if self.bearer != "none" else {},
        )


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("landscape"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def caller(landscape: Landscape, clock: Clock) -> AsyncIterator[Caller]:
    emulator = FcmEmulator(
        tls=landscape.server_tls(),
        project_id=landscape.project_id,
        service_account_email=landscape.service_account_email,
        public_key=landscape.service_account_public_key,
        clock=clock,
    )
    await emulator.start()
    caller = Caller(emulator, landscape, clock)
    yield caller
    await caller.http.aclose()
    await emulator.close()


def error(response: httpx.Response) -> Any:
    body = response.json()["error"]
    assert body["code"] == response.status_code
    assert response.headers["content-type"] == "application/json; charset=UTF-8"
    return body


async def test_google_auth_gets_a_token_and_messages_arrive(landscape: Landscape) -> None:
    emulator = FcmEmulator(
        tls=landscape.server_tls(),
        project_id=landscape.project_id,
        service_account_email=landscape.service_account_email,
        public_key=landscape.service_account_public_key,
    )
    await emulator.start()
    try:
        account = landscape.write_service_account(token_url=emulator.token_url)
        name = await asyncio.to_thread(_send_with_google_auth, account, landscape.ca_file, emulator.port)
        (received,) = emulator.devices()[DEVICE]
        assert received.name == name
        assert received.payload == {"token": DEVICE, "data": {"k": "v"}}
        assert "authorization" not in received.headers
        assert emulator.counts["token_requests"] == emulator.counts["delivered"] == 1
    finally:
        await emulator.close()


def _credentials(account: Path) -> Any:
    return Credentials.from_service_account_file(str(account), scopes=[SCOPE])  # type: ignore[no-untyped-call] # google-auth


def _send_with_google_auth(account: Path, ca_file: Path, port: int) -> str:
    credentials = _credentials(account)
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win over verify
        session.verify = str(ca_file)
        credentials.refresh(AuthRequest(session))
        assert credentials.token.startswith("ya29.emulator-")
        answer = session.post(
            f"https://127.0.0.1:{port}/v1/projects/{PROJECT}/messages:send",
            json={"message": {"token": DEVICE, "data": {"k": "v"}}},
            headers={"authorization": f"Bearer {credentials.token}"},
            timeout=5,
        )
    assert answer.status_code == 200
    return str(answer.json()["name"])


async def test_google_auth_reports_a_scripted_failure_of_the_token_endpoint(caller: Caller) -> None:
    caller.emulator.script("/token", [Step(status=400, reason="invalid_grant", repeat=True)])
    caller.emulator.script("*", [Step(status=503, repeat=True)])
    account = caller.landscape.write_service_account(token_url=caller.emulator.token_url)

    def refresh() -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(caller.landscape.ca_file)
            _credentials(account).refresh(AuthRequest(session))

    with pytest.raises(RefreshError, match="invalid_grant"):
        await asyncio.to_thread(refresh)


BAD_ASSERTIONS = [
    ({"iss": "other@example.org"}, "invalid_grant", "account not found"),
    ({"aud": "https://example.org/token"}, "invalid_grant", "audience"),
    ({"iat": None}, "invalid_grant", "short-lived"),
    ({"exp": 1_700_003_601}, "invalid_grant", "short-lived"),
    ({"iat": 1_700_000_061, "exp": 1_700_000_100}, "invalid_grant", "short-lived"),
    ({"iat": 1_699_990_000, "exp": 1_699_993_000}, "invalid_grant", "short-lived"),
    ({"scope": ""}, "invalid_scope", "scope"),
    ({"scope": "mail"}, "invalid_scope", "scope"),
]


@pytest.mark.parametrize(("changes", "code", "words"), BAD_ASSERTIONS)
async def test_a_bad_assertion_gets_no_token(caller: Caller, changes: dict[str, object], code: str, words: str) -> None:
    response = await caller.token(**changes)
    assert (response.status_code, response.json()["error"]) == (400, code)
    assert words in response.json()["error_description"]


async def test_a_foreign_signature_gets_no_token(caller: Caller) -> None:
    head, claims, _ = caller.assertion().split(".")
    forged = f"{head}.{claims}.{caller.assertion(scope='other').split('.')[2]}"
    response = await caller.http.post("/token", data={"grant_type": GRANT, "assertion": forged})
    assert response.json() == {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": GRANT}, "invalid_request"),
        ({"grant_type": GRANT, "assertion": "no.jwt"}, "invalid_grant"),
    ],
)
async def test_a_bad_form_gets_no_token(caller: Caller, form: dict[str, str], code: str) -> None:
    response = await caller.http.post("/token", data=form)
    assert (response.status_code, response.json()["error"]) == (400, code)


async def test_the_token_endpoint_takes_only_posts_and_plays_its_own_script(caller: Caller) -> None:
    assert (await caller.http.get("/token")).status_code == 405
    caller.emulator.script(
        "/token", [Step(status=500), Step(status=503, body="<html>", retry_after="3"), Step(delay_s=0.01)]
    )
    assert (await caller.token()).json()["error"] == "internal_failure"
    unavailable = await caller.token()
    assert (unavailable.status_code, unavailable.text, unavailable.headers["retry-after"]) == (503, "<html>", "3")
    good = (await caller.token()).json()
    assert (good["expires_in"], good["token_type"]) == (3600, "Bearer")


async def test_a_message_without_credentials_is_refused(caller: Caller, clock: Clock) -> None:
    caller.bearer = "none"
    missing = error(await caller.send())
    assert missing["status"] == "UNAUTHENTICATED"
    assert missing["details"][0]["reason"] == "CREDENTIALS_MISSING"
    for caller.bearer in ("Bearer made-up", "Basic dTpw"):
        unknown = error(await caller.send())
        assert unknown["details"][0]["reason"] == "ACCESS_TOKEN_TYPE_UNSUPPORTED"
    caller.bearer = ""
    assert (await caller.send()).status_code == 200
    clock.now += 3600
    expired = error(await caller.send())
    assert (expired["code"], expired["status"]) == (401, "UNAUTHENTICATED")
    caller.bearer = ""
    assert (await caller.send()).status_code == 200
    caller.emulator.revoke_access_tokens()
    assert (await caller.send()).status_code == 401


async def test_a_token_for_something_else_is_not_enough(caller: Caller) -> None:
    response = await caller.token(scope="https://www.googleapis.com/auth/calendar")
    caller.bearer = f"Bearer {response.json()['access_token']}"
    refused = error(await caller.send())
    assert (refused["code"], refused["message"]) == (403, "Request had insufficient authentication scopes.")


async def test_another_project_is_denied(caller: Caller) -> None:
    refused = error(await caller.send(project="other"))
    assert (refused["code"], refused["status"]) == (403, "PERMISSION_DENIED")
    assert "cloudmessaging.messages.create" in str(refused["message"])
    assert FCM_ERROR not in str(refused)


@pytest.mark.parametrize(("method", "path"), [("POST", "/fcm/send"), ("GET", f"/v1/projects/{PROJECT}/messages:send")])
async def test_an_unknown_path_gets_a_page(caller: Caller, method: str, path: str) -> None:
    response = await caller.http.request(method, path)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


TYPE_FAULTS = [
    ({"token": DEVICE, "data": {"a": "b", "n": 21465}}, "message.data[1].value", "(TYPE_STRING), 21465"),
    ({"token": DEVICE, "data": {"a": None}}, "message.data[0].value", "(TYPE_STRING), null"),
    ({"token": DEVICE, "data": "x"}, "message.data", "TYPE_MESSAGE"),
    ({"token": DEVICE, "priority": "high"}, "message", "Unknown name \"priority\" at 'message': Cannot find field."),
    ({"token": DEVICE, "notification": [1]}, "message", "Proto field is not repeating, cannot start list."),
    ({"token": DEVICE, "notification": "x"}, "message.notification", "fcm.v1.Notification"),
    ({"token": DEVICE, "notification": {"title": 1}}, "message.notification.title", "TYPE_STRING"),
    ({"token": DEVICE, "android": {"priority": "urgent"}}, "message.android.priority", "AndroidMessagePriority"),
    ({"token": DEVICE, "android": {"ttl": "60"}}, "message.android.ttl", "duration must end with 's'"),
    ({"token": DEVICE, "android": {"ttl": 60}}, "message.android.ttl", "duration must end with 's'"),
    ({"token": DEVICE, "android": {"directBootOk": "yes"}}, "message.android.directBootOk", "TYPE_BOOL"),
    ({"token": DEVICE, "android": {"notification": {"notification_count": 1.5}}}, "notification_count", "TYPE_INT32"),
    ({"token": DEVICE, "android": {"notification": {"body_loc_args": "x"}}}, "body_loc_args", "TYPE_STRING"),
    ({"token": DEVICE, "android": {"notification": {"body_loc_args": ["x", 1]}}}, "body_loc_args[1]", "TYPE_STRING"),
    ({"token": DEVICE, "apns": {"payload": "x"}}, "message.apns.payload", "google.protobuf.Struct"),
    ({"token": DEVICE, "topic": "news"}, "message", "oneof field 'target' is already set. Cannot set 'topic'"),
    ({"token": 5}, "message.token", "(TYPE_STRING), 5"),
]


@pytest.mark.parametrize(("message", "field", "words"), TYPE_FAULTS)
async def test_a_value_of_the_wrong_type_is_refused_before_fcm(
    caller: Caller, message: object, field: str, words: str
) -> None:
    refused = error(await caller.send(message))
    (detail,) = refused["details"]
    (violation,) = detail["fieldViolations"]
    assert (refused["status"], detail["@type"]) == ("INVALID_ARGUMENT", BAD_REQUEST)
    assert violation["field"].endswith(field)
    assert words in violation["description"]
    assert refused["message"] == violation["description"]


async def test_every_unknown_name_is_told_at_once(caller: Caller) -> None:
    refused = error(await caller.send(body='{"to": "x", "data": {}, "message": {"token": "t"}}'))
    assert str(refused["message"]).splitlines() == [
        'Invalid JSON payload received. Unknown name "to": Cannot find field.',
        'Invalid JSON payload received. Unknown name "data": Cannot find field.',
    ]
    assert refused["details"][0]["fieldViolations"][0] == {"description": str(refused["message"]).splitlines()[0]}


@pytest.mark.parametrize("body", ["{", "\ud83d".encode("utf-16-le", "surrogatepass").decode("latin-1"), "[" * 9000])
async def test_a_body_that_is_no_json_is_refused(caller: Caller, body: str) -> None:
    refused = error(await caller.send(body=body))
    assert (refused["status"], refused["message"]) == (
        "INVALID_ARGUMENT",
        "Invalid JSON payload received. Unexpected token.",
    )


@pytest.mark.parametrize("body", ["[]", '{"message": 5}', '{"message": {"token": "t"}, "validate_only": "yes"}'])
async def test_a_request_of_another_shape_is_refused(caller: Caller, body: str) -> None:
    assert "Invalid value at" in str(error(await caller.send(body=body))["message"])


VALUE_FAULTS = [
    ({"data": {"k": "v"}}, "message", "Recipient of the message is not set."),
    ({"token": ""}, "message.token", "Invalid registration token"),
    ({"token": "with space"}, "message.token", "Invalid registration token"),
    ({"token": "t" * 4097}, "message.token", "Invalid registration token"),
    ({"topic": "a b"}, "message.token", "Invalid registration token"),
    ({"token": DEVICE, "data": {"from": "x"}}, "message.data", "Invalid data payload key: from"),
    ({"token": DEVICE, "data": {"google.c": "x"}}, "message.data", "Invalid data payload key: google.c"),
    ({"token": DEVICE, "data": {"gcm.notification.x": "x"}}, "message.data", "payload key: gcm.notification.x"),
    ({"token": DEVICE, "android": {"data": {"gcm": "x"}}}, "message.android.data", "Invalid data payload key: gcm"),
    ({"token": DEVICE, "android": {"ttl": "2419201s"}}, "message.android.ttl", "Invalid TTL"),
    ({"token": DEVICE, "android": {"ttl": "-1s"}}, "message.android.ttl", "Invalid TTL"),
    ({"token": DEVICE, "apns": {"headers": {"apns-priority": "10"}}}, "message.apns.headers", "apns-priority 5"),
]


@pytest.mark.parametrize(("message", "field", "words"), VALUE_FAULTS)
async def test_a_wrong_value_is_refused_by_fcm(caller: Caller, message: object, field: str, words: str) -> None:
    refused = error(await caller.send(message))
    fcm, bad_request = refused["details"]
    assert fcm == {"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"}
    (violation,) = bad_request["fieldViolations"]
    assert violation["field"] == field
    assert words in violation["description"]
    assert caller.emulator.counts["reason.INVALID_ARGUMENT"] == 1
    assert not caller.emulator.devices()


TOO_BIG = {
    "error": {
        "code": 400,
        "message": "Android message is too big",
        "status": "INVALID_ARGUMENT",
        "details": [{"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"}, {"@type": BAD_REQUEST}],
    }
}


@pytest.mark.parametrize(
    ("message", "fits"),
    [
        ({"token": DEVICE, "data": {"k": "v" * 4095}}, True),
        ({"token": DEVICE, "data": {"k": "v" * 4096}}, False),
        ({"token": DEVICE, "data": {"k": "ü" * 2048}}, False),
        ({"token": DEVICE, "data": {"k": "v" * 4096}, "android": {"data": {"k": "v"}}}, True),
        ({"token": DEVICE, "notification": {"body": "v" * 4093}}, False),
        ({"topic": "news", "data": {"k": "v" * 2048}}, False),
        ({"token": DEVICE, "data": {"k": "v" * 300_000}}, False),
    ],
)
async def test_keys_and_values_are_at_most_4096_bytes(caller: Caller, message: object, fits: bool) -> None:
    response = await caller.send(message)
    assert (response.status_code == 200) if fits else (response.json() == TOO_BIG)


FULL = {
    "token": DEVICE,
    "data": {"k": "v"},
    "notification": None,
    "android": {
        "priority": "high",
        "ttl": "0.5s",
        "collapseKey": "c",
        "direct_boot_ok": True,
        "notification": {
            "light_settings": {"color": {"red": 0.5}, "light_on_duration": "1s"},
            "visibility": "SECRET",
            "body_loc_args": ["a"],
        },
    },
    "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": "x"}}},
    "webpush": {"notification": {"anything": [1]}},
    "fcmOptions": {"analyticsLabel": "l"},
}


async def test_a_full_message_is_accepted_and_named(caller: Caller) -> None:
    response = await caller.send(FULL)
    name = response.json()["name"]
    assert name.startswith(f"projects/{PROJECT}/messages/0:1700000000000000%")
    (received,) = caller.emulator.devices()[DEVICE]
    assert (received.payload, received.name) == (FULL, name)


@pytest.mark.parametrize(
    ("message", "inbox"),
    [({"topic": "news"}, "/topics/news"), ({"condition": "'a' in topics"}, "/conditions/'a' in topics")],
)
async def test_topics_and_conditions_have_inboxes_too(caller: Caller, message: object, inbox: str) -> None:
    assert (await caller.send(message)).status_code == 200
    assert list(caller.emulator.devices()) == [inbox]


async def test_validate_only_checks_and_delivers_nothing(caller: Caller) -> None:
    response = await caller.send(validate_only=True)
    assert response.json() == {"name": f"projects/{PROJECT}/messages/fake_message_id"}
    assert (await caller.send({"token": ""}, validateOnly=True)).status_code == 400
    caller.emulator.script(DEVICE, [Step(status=500, deliver=True)])
    assert (await caller.send(validate_only=True)).status_code == 500
    assert not caller.emulator.devices()


async def test_dead_devices_are_unregistered(caller: Caller) -> None:
    caller.emulator.kill(DEVICE)
    expected = {
        "code": 404,
        "message": "Requested entity was not found.",
        "status": "NOT_FOUND",
        "details": [{"@type": FCM_ERROR, "errorCode": "UNREGISTERED"}],
    }
    assert error(await caller.send()) == expected
    assert error(await caller.send({"token": "dead-one"})) == expected


SCRIPTED = [
    (Step(status=403), "SenderId mismatch", "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
    (Step(status=401, reason="THIRD_PARTY_AUTH_ERROR"), "Auth error", "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
    (Step(status=401), "invalid authentication", "UNAUTHENTICATED", None),
    (Step(status=403, reason="PERMISSION_DENIED"), "denied on resource", "PERMISSION_DENIED", None),
    (Step(status=429), "Quota exceeded.", "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    (Step(status=429, reason="RATE_LIMIT_EXCEEDED"), "Send requests per minute", "RESOURCE_EXHAUSTED", None),
    (Step(status=500), "Internal error", "INTERNAL", "INTERNAL"),
    (Step(status=503), "currently unavailable", "UNAVAILABLE", "UNAVAILABLE"),
    (Step(status=418, reason="TEAPOT"), "TEAPOT", "UNKNOWN", None),
]


@pytest.mark.parametrize(("step", "words", "status", "code"), SCRIPTED)
async def test_scripted_errors_have_googles_shape(
    caller: Caller, step: Step, words: str, status: str, code: str | None
) -> None:
    caller.emulator.script(DEVICE, [step])
    refused = error(await caller.send())
    assert words in str(refused["message"])
    assert refused["status"] == status
    codes = [detail["errorCode"] for detail in refused.get("details", []) if detail["@type"] == FCM_ERROR]
    assert codes == ([code] if code else [])
    assert (await caller.send()).status_code == 200


async def test_quota_and_html_come_as_scripted(caller: Caller) -> None:
    steps = [Step(status=429, retry_after="30"), Step(status=502, body="<html>"), Step(status=500, deliver=True)]
    caller.emulator.script(DEVICE, steps)
    assert (await caller.send()).headers["retry-after"] == "30"
    page = await caller.send()
    assert (page.status_code, page.text) == (502, "<html>")
    assert (await caller.send()).status_code == 500
    assert len(caller.emulator.devices()[DEVICE]) == 1


async def test_accept_all_asks_for_no_credentials_and_scripted_plays_unchecked(caller: Caller) -> None:
    caller.bearer = "none"
    caller.emulator.temper = Temper.ACCEPT_ALL
    assert (await caller.send({"token": DEVICE, "data": {"n": 1}}, project="other")).status_code == 200
    assert (await caller.send(body="{")).status_code == 400
    caller.emulator.temper = Temper.SCRIPTED
    caller.emulator.script(DEVICE, [Step(status=503)])
    assert (await caller.send()).status_code == 503
    assert (await caller.send()).status_code == 401
    assert caller.emulator.temper is Temper.SCRIPTED


async def test_other_processes_see_and_steer_it(caller: Caller) -> None:
    await caller.send()
    shown = (await caller.http.get(f"/devices/{DEVICE}")).json()
    assert shown[0]["payload"]["data"] == {"k": "v"}
    assert shown[0]["name"].startswith("projects/")
    await caller.http.post("/script", json={DEVICE: [{"status": 503}]})
    assert (await caller.send()).status_code == 503
    assert (await caller.http.get("/counts")).json() == caller.emulator.counts
    await caller.http.post("/connection", json={"max_streams": 9})
    assert caller.emulator.rules.max_streams == 9
    caller.emulator.rules = type(caller.emulator.rules)()
    assert caller.emulator.rules.max_streams == 1000


async def test_a_fault_over_http1_breaks_the_connection(caller: Caller) -> None:
    caller.emulator.temper = Temper.ACCEPT_ALL
    caller.emulator.script(DEVICE, [Step(fault=Fault.RESET), Step(fault=Fault.HANG), Step(delay_s=0.01)])
    url = f"https://127.0.0.1:{caller.emulator.port}/v1/projects/{PROJECT}/messages:send"
    async with httpx.AsyncClient(verify=caller.landscape.client_tls(), timeout=0.2) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(url, json={"message": {"token": DEVICE}})
        with pytest.raises(httpx.ReadTimeout):
            await http.post(url, json={"message": {"token": DEVICE}})
        assert (await http.post(url, json={"message": {"token": DEVICE}})).status_code == 200


async def test_access_tokens_are_bounded(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_endpoint, "MAX_TOKENS", 1)
    assert (await caller.send()).status_code == 200
    await caller.token()
    assert (await caller.send()).status_code == 401


def test_a_service_account_needs_an_rsa_key(landscape: Landscape) -> None:
    (pem,) = landscape.apns_keys.values()
    with pytest.raises(ValueError, match="RSA"):
        FcmEmulator(tls=landscape.server_tls(), project_id="p", service_account_email="e", public_key=pem)
