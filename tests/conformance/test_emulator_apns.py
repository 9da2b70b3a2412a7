"""The APNs emulator against clients that are not ours (httpx, curl): every reason, tempers, scripts, control pages."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pushgate.emulator import ApnsEmulator, ConnectionRules, Fault, Landscape, Step, Temper

TOPIC = "com.example.app"
DEVICE = "ab" * 32
ALERT = {"aps": {"alert": {"title": "t"}}}
NOTHING: Mapping[str, object] = {}
Headers = Mapping[str, str | None]
NO_CHANGES: Headers = {}
APNS_ID = "eabeae54-14a8-4e5b-a60b-1697f925ec7b"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """A provider with a good token and good headers; each test spoils what it wants."""

    def __init__(self, emulator: ApnsEmulator, landscape: Landscape, clock: Clock) -> None:
        self.emulator = emulator
        self.landscape = landscape
        self.clock = clock
        self.base = f"https://localhost:{emulator.port}"
        self.http = self.client()
        self.tokens: dict[float, str] = {}

    def client(self, *, http2: bool = True, certificate: tuple[Path, Path] | None = None) -> httpx.AsyncClient:
        context = self.landscape.client_tls()
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return httpx.AsyncClient(http2=http2, http1=not http2, verify=context, base_url=self.base, timeout=5)

    def token(
        self, *, key: ec.EllipticCurvePrivateKey | None = None, kid: str = "", claims: Mapping[str, object] = NOTHING
    ) -> str:
        claims = {"iss": self.landscape.apns_team_id, "iat": int(self.clock.now), **claims}
        pem = self.landscape.apns_key_file.read_bytes() if key is None else key
        return jwt.encode(claims, pem, algorithm="ES256", headers={"kid": kid or self.landscape.apns_key_id})

    def headers(self, changes: Headers = NO_CHANGES) -> dict[str, str]:
        headers: dict[str, str | None] = {
            "authorization": f"bearer {self.tokens.setdefault(self.clock.now, self.token())}",
            "apns-topic": TOPIC,
            "apns-push-type": "alert",
            "apns-priority": "10",
            **changes,
        }
        return {name: value for name, value in headers.items() if value is not None}

    async def push(
        self, token: str = DEVICE, headers: Headers = NO_CHANGES, *, payload: object = ALERT, body: bytes | None = None
    ) -> httpx.Response:
        content = json.dumps(payload).encode() if body is None else body
        return await self.http.post(f"/3/device/{token}", content=content, headers=self.headers(headers))


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("landscape"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def caller(landscape: Landscape, clock: Clock) -> AsyncIterator[Caller]:
    emulator = ApnsEmulator(
        tls=landscape.server_tls(client_certificates=True), keys=landscape.apns_keys, topics=[TOPIC], clock=clock
    )
    await emulator.start()
    caller = Caller(emulator, landscape, clock)
    yield caller
    await caller.http.aclose()
    await emulator.close()


def reason(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["reason"]


async def test_a_good_notification_is_accepted_and_shown(caller: Caller, clock: Clock) -> None:
    response = await caller.push(headers={"apns-id": APNS_ID, "apns-collapse-id": "c", "apns-expiration": "0"})
    assert (response.status_code, response.content, response.headers["apns-id"]) == (200, b"", APNS_ID)
    assert response.http_version == "HTTP/2"
    (received,) = caller.emulator.devices()[DEVICE]
    assert received.payload == ALERT
    assert (received.apns_id, received.received_at) == (APNS_ID, clock.now)
    assert received.headers["apns-collapse-id"] == "c"
    assert "authorization" not in received.headers
    assert caller.emulator.counts["accepted"] == caller.emulator.counts["delivered"] == 1


async def test_an_id_is_made_where_none_is_given(caller: Caller) -> None:
    response = await caller.push()
    assert str(uuid.UUID(response.headers["apns-id"])) == response.headers["apns-id"]
    assert "apns-unique-id" not in response.headers


HEADER_FAULTS = [
    ({"authorization": None}, 403, "MissingProviderToken"),
    ({"authorization": "bearer"}, 403, "MissingProviderToken"),
    ({"authorization": "basic dTpw"}, 403, "InvalidProviderToken"),
    ({"authorization": "bearer no.jwt.atall"}, 403, "InvalidProviderToken"),
    ({"apns-topic": None}, 400, "MissingTopic"),
    ({"apns-topic": "-not a topic-"}, 400, "BadTopic"),
    ({"apns-topic": "com.example.other"}, 400, "TopicDisallowed"),
    ({"apns-push-type": "voip"}, 400, "BadTopic"),
    ({"apns-push-type": "shout"}, 400, "InvalidPushType"),
    ({"apns-id": APNS_ID.upper()}, 400, "BadMessageId"),
    ({"apns-id": "17"}, 400, "BadMessageId"),
    ({"apns-expiration": "soon"}, 400, "BadExpirationDate"),
    ({"apns-expiration": "-1"}, 400, "BadExpirationDate"),
    ({"apns-priority": "7"}, 400, "BadPriority"),
    ({"apns-push-type": "background", "apns-priority": "10"}, 400, "BadPriority"),
    ({"apns-push-type": "background", "apns-priority": None}, 400, "BadPriority"),
    ({"apns-push-type": "background", "apns-priority": "5"}, 400, "InvalidPushType"),
    ({"apns-collapse-id": "c" * 65}, 400, "BadCollapseId"),
]


@pytest.mark.parametrize(("headers", "status", "why"), HEADER_FAULTS)
async def test_a_bad_header_is_refused(caller: Caller, headers: Headers, status: int, why: str) -> None:
    response = await caller.push(headers=headers)
    assert reason(response) == (status, why)
    assert str(uuid.UUID(response.headers["apns-id"])) == response.headers["apns-id"]
    assert not caller.emulator.devices()
    assert caller.emulator.counts[f"reason.{why}"] == caller.emulator.counts[f"status.{status}"] == 1


PAYLOAD_FAULTS = [
    (b"", "alert", 400, "PayloadEmpty"),
    (b"no json", "alert", 400, "PayloadEmpty"),
    (b"[1]", "alert", 400, "PayloadEmpty"),
    (b"[" * 4000, "alert", 400, "PayloadEmpty"),
    (b'{"aps":{"alert":"' + b"x" * 4096 + b'"}}', "alert", 413, "PayloadTooLarge"),
    (b'{"aps":{"alert":"' + b"x" * 300_000 + b'"}}', "alert", 413, "PayloadTooLarge"),
    (b'{"aps":{"content-available":1}}', "alert", 400, "InvalidPushType"),
    (b'{"aps":1}', "alert", 400, "InvalidPushType"),
    (b'{"aps":{"content-available":1,"sound":"s"}}', "background", 400, "InvalidPushType"),
]


@pytest.mark.parametrize(("body", "push_type", "status", "why"), PAYLOAD_FAULTS)
async def test_a_bad_payload_is_refused(caller: Caller, body: bytes, push_type: str, status: int, why: str) -> None:
    response = await caller.push(body=body, headers={"apns-push-type": push_type, "apns-priority": "5"})
    assert reason(response) == (status, why)


PATH_FAULTS = [
    ("POST", "/3/device/", 400, "MissingDeviceToken"),
    ("POST", "/3/device", 400, "MissingDeviceToken"),
    ("POST", "/3/device/xyz", 400, "BadDeviceToken"),
    ("POST", "/3/device/abc", 400, "BadDeviceToken"),
    ("POST", "/3/device/" + "ab" * 101, 400, "BadDeviceToken"),
    ("POST", "/3/device/0badc0de" + "ab" * 28, 400, "BadDeviceToken"),
    ("POST", "/3/device/abab/cd", 404, "BadPath"),
    ("POST", "/4/device/abab", 404, "BadPath"),
    ("GET", f"/3/device/{DEVICE}", 405, "MethodNotAllowed"),
]


@pytest.mark.parametrize(("method", "path", "status", "why"), PATH_FAULTS)
async def test_a_bad_path_is_refused(caller: Caller, method: str, path: str, status: int, why: str) -> None:
    response = await caller.http.request(method, path, content=json.dumps(ALERT), headers=caller.headers())
    assert reason(response) == (status, why)


async def test_a_repeated_header_is_refused(caller: Caller) -> None:
    headers = [*caller.headers().items(), ("apns-topic", TOPIC)]
    response = await caller.http.post(f"/3/device/{DEVICE}", content=json.dumps(ALERT), headers=headers)
    assert reason(response) == (400, "DuplicateHeaders")


GOOD = [
    ({"apns-push-type": "background", "apns-priority": "5"}, {"aps": {"content-available": 1}}),
    ({"apns-push-type": "voip", "apns-topic": f"{TOPIC}.voip"}, {"call": "x" * 5000}),
    ({"apns-push-type": "liveactivity", "apns-topic": f"{TOPIC}.push-type.liveactivity"}, {"aps": {"event": "end"}}),
    ({"apns-push-type": None, "apns-priority": None}, {}),
    ({"apns-priority": "5", "apns-expiration": "1700000000"}, {"aps": {"badge": 0}}),
]


@pytest.mark.parametrize(("headers", "payload"), GOOD)
async def test_other_kinds_of_notification_are_accepted(caller: Caller, headers: Headers, payload: object) -> None:
    assert (await caller.push(payload=payload, headers=headers)).status_code == 200


BAD_TOKENS = [
    ({"iss": "OTHERTEAM1"}, "InvalidProviderToken"),
    ({"iat": "1700000000"}, "InvalidProviderToken"),
    ({"iat": 1_700_000_061}, "InvalidProviderToken"),
    ({"iat": 1_700_000_000 - 3601}, "ExpiredProviderToken"),
]


@pytest.mark.parametrize(("changes", "why"), BAD_TOKENS)
async def test_a_bad_provider_token_is_refused(caller: Caller, changes: dict[str, object], why: str) -> None:
    response = await caller.push(headers={"authorization": f"bearer {caller.token(claims=changes)}"})
    assert reason(response) == (403, why)


async def test_a_forged_signature_is_refused(caller: Caller) -> None:
    unknown = caller.token(kid="OTHERKEY01")
    assert reason(await caller.push(headers={"authorization": f"bearer {unknown}"})) == (403, "InvalidProviderToken")
    forged = caller.token(key=ec.generate_private_key(ec.SECP256R1()))
    assert reason(await caller.push(headers={"authorization": f"bearer {forged}"})) == (403, "InvalidProviderToken")
    unsigned = jwt.encode({"iss": caller.landscape.apns_team_id, "iat": int(caller.clock.now)}, "", algorithm="none")
    assert reason(await caller.push(headers={"authorization": f"bearer {unsigned}"})) == (403, "InvalidProviderToken")


async def test_a_provider_token_expires_after_an_hour(caller: Caller, clock: Clock) -> None:
    token = caller.token()
    assert (await caller.push(headers={"authorization": f"bearer {token}"})).status_code == 200
    clock.now += 3600
    assert (await caller.push(headers={"authorization": f"bearer {token}"})).status_code == 200
    clock.now += 1
    assert reason(await caller.push(headers={"authorization": f"bearer {token}"})) == (403, "ExpiredProviderToken")
    assert (await caller.push()).status_code == 200


async def test_a_connection_may_change_its_token_once_in_20_minutes(caller: Caller, clock: Clock) -> None:
    tokens = []
    for _ in range(3):
        tokens.append(f"bearer {caller.token()}")
        clock.now += 60
    assert (await caller.push(headers={"authorization": tokens[0]})).status_code == 200
    assert (await caller.push(headers={"authorization": tokens[1]})).status_code == 200
    assert reason(await caller.push(headers={"authorization": tokens[2]})) == (429, "TooManyProviderTokenUpdates")
    assert (await caller.push(headers={"authorization": tokens[1]})).status_code == 200
    clock.now += 1200
    assert (await caller.push(headers={"authorization": tokens[2]})).status_code == 200


async def test_a_connection_is_bound_to_one_key(landscape: Landscape, clock: Clock) -> None:
    second = ec.generate_private_key(ec.SECP256R1())
    keys: dict[tuple[str, str], bytes | ec.EllipticCurvePublicKey] = {
        **landscape.apns_keys,
        ("SECONDKEY1", landscape.apns_team_id): second.public_key(),
    }
    emulator = ApnsEmulator(
        tls=landscape.server_tls(),
        keys=keys,
        topics=[TOPIC],
        clock=clock,
        environment="sandbox",
        key_environments={"SECONDKEY1": "sandbox", landscape.apns_key_id: "production"},
    )
    await emulator.start()
    caller = Caller(emulator, landscape, clock)
    try:
        assert reason(await caller.push()) == (403, "BadEnvironmentKeyIdInToken")
        response = await caller.push(headers={"authorization": f"bearer {caller.token(key=second, kid='SECONDKEY1')}"})
        assert response.status_code == 200
        assert len(response.headers["apns-unique-id"]) == 36
    finally:
        await caller.http.aclose()
        await emulator.close()
    unrestricted = ApnsEmulator(tls=landscape.server_tls(), keys=keys, topics=[TOPIC], clock=clock)
    await unrestricted.start()
    caller = Caller(unrestricted, landscape, clock)
    try:
        assert (await caller.push()).status_code == 200
        other = f"bearer {caller.token(key=second, kid='SECONDKEY1')}"
        assert reason(await caller.push(headers={"authorization": other})) == (403, "UnrelatedKeyIdInToken")
    finally:
        await caller.http.aclose()
        await unrestricted.close()


def test_a_key_of_another_kind_is_refused_at_once(landscape: Landscape) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="not for ES256"):
        ApnsEmulator(tls=landscape.server_tls(), keys={("K", "T"): pem}, topics=[TOPIC])


async def test_dead_devices_are_unregistered(caller: Caller, clock: Clock) -> None:
    caller.emulator.kill(DEVICE)
    clock.now += 5
    response = await caller.push()
    assert response.status_code == 410
    assert response.json() == {"reason": "Unregistered", "timestamp": 1_700_000_000_000}
    by_prefix = await caller.push("dead" + "0" * 60)
    assert by_prefix.json() == {"reason": "Unregistered", "timestamp": 1_700_000_005_000}
    caller.emulator.register(DEVICE, topic=TOPIC)
    assert (await caller.push()).status_code == 200


async def test_a_registered_device_belongs_to_one_topic(caller: Caller) -> None:
    caller.emulator.register(DEVICE, topic="com.example.other")
    assert reason(await caller.push()) == (400, "DeviceTokenNotForTopic")


async def test_a_certificate_takes_the_place_of_the_token(caller: Caller) -> None:
    files = caller.landscape.write_push_certificate(TOPIC)
    async with caller.client(certificate=files) as caller.http:
        assert (await caller.push(headers={"authorization": None})).status_code == 200
        assert (await caller.push(headers={"authorization": None, "apns-topic": None})).status_code == 200
        assert reason(await caller.push(headers={"authorization": None, "apns-topic": "com.example.other"})) == (
            400,
            "BadTopic",
        )
        location = {"apns-push-type": "location", "apns-topic": f"{TOPIC}.location-query"}
        assert reason(await caller.push(headers={"authorization": None, **location})) == (400, "InvalidPushType")


@pytest.mark.parametrize(
    ("topics", "environments", "status", "why"),
    [
        ([TOPIC, "com.example.two"], ["production"], 400, "MissingTopic"),
        ([TOPIC], ["sandbox"], 403, "BadCertificateEnvironment"),
        ([], ["production"], 403, "BadCertificate"),
    ],
)
async def test_a_bad_certificate_is_refused(
    caller: Caller, topics: list[str], environments: list[Literal["production", "sandbox"]], status: int, why: str
) -> None:
    files = caller.landscape.write_push_certificate(*topics, environments=environments)
    async with caller.client(certificate=files) as caller.http:
        assert reason(await caller.push(headers={"authorization": None, "apns-topic": None})) == (status, why)


async def test_steps_are_played_in_order_and_then_the_temper_decides(caller: Caller) -> None:
    steps = [
        Step(status=503),
        Step(status=429, retry_after="7"),
        Step(status=410, reason="ExpiredToken", timestamp_ms=17),
        Step(status=502, body="<html>bad gateway</html>"),
        Step(status=500, reason="Shutdown", deliver=True),
    ]
    caller.emulator.script(DEVICE, steps)
    assert reason(await caller.push()) == (503, "ServiceUnavailable")
    busy = await caller.push()
    assert reason(busy) == (429, "TooManyRequests")
    assert busy.headers["retry-after"] == "7"
    assert (await caller.push()).json() == {"reason": "ExpiredToken", "timestamp": 17}
    html = await caller.push()
    assert (html.status_code, html.text) == (502, "<html>bad gateway</html>")
    assert html.headers["content-type"].startswith("text/html")
    assert not caller.emulator.devices()
    assert reason(await caller.push()) == (500, "Shutdown")
    assert len(caller.emulator.devices()[DEVICE]) == 1
    assert (await caller.push()).status_code == 200


async def test_a_repeating_step_stays_and_the_wildcard_covers_the_others(caller: Caller) -> None:
    caller.emulator.script("*", [Step(status=503, repeat=True)])
    caller.emulator.script(DEVICE, [Step(status=200, delay_s=0.05)])
    started = asyncio.get_running_loop().time()
    assert (await caller.push()).status_code == 200
    assert asyncio.get_running_loop().time() - started >= 0.05
    for token in (DEVICE, "cd", "cd"):
        assert reason(await caller.push(token)) == (503, "ServiceUnavailable")
    caller.emulator.script("*", [])
    assert (await caller.push()).status_code == 200


async def test_a_strict_script_waits_for_a_request_without_fault(caller: Caller) -> None:
    caller.emulator.script(DEVICE, [Step(status=503)])
    assert reason(await caller.push(headers={"apns-topic": None})) == (400, "MissingTopic")
    assert reason(await caller.push()) == (503, "ServiceUnavailable")


async def test_scripted_plays_unchecked_and_treats_the_rest_strictly(caller: Caller) -> None:
    caller.emulator.temper = Temper.SCRIPTED
    caller.emulator.script(DEVICE, [Step(status=503)])
    assert reason(await caller.push(headers={"apns-topic": None})) == (503, "ServiceUnavailable")
    assert reason(await caller.push(headers={"apns-topic": None})) == (400, "MissingTopic")
    assert caller.emulator.temper is Temper.SCRIPTED


async def test_accept_all_takes_everything_well_formed(caller: Caller) -> None:
    caller.emulator.temper = Temper.ACCEPT_ALL
    nothing: Headers = dict.fromkeys(("authorization", "apns-topic", "apns-push-type", "apns-priority"))
    assert (await caller.push(body=b"\xff no json", headers=nothing)).status_code == 200
    assert caller.emulator.devices()[DEVICE][0].payload == "\ufffd no json"
    assert reason(await caller.push("xyz")) == (400, "BadDeviceToken")
    assert reason(await caller.push(body=b"x" * 20_000)) == (413, "PayloadTooLarge")
    caller.emulator.kill(DEVICE)
    assert reason(await caller.push(headers=nothing)) == (410, "Unregistered")


async def test_a_reset_or_a_broken_connection_is_no_answer(caller: Caller) -> None:
    caller.emulator.script(DEVICE, [Step(fault=Fault.RESET), Step(fault=Fault.DISCONNECT)])
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            await caller.push()
    assert (await caller.push()).status_code == 200
    assert caller.emulator.counts["fault.reset"] == caller.emulator.counts["fault.disconnect"] == 1


@pytest.mark.parametrize("http2", [True, False])
async def test_other_processes_see_and_steer_it(caller: Caller, http2: bool) -> None:
    await caller.push(headers={"apns-id": APNS_ID})
    async with caller.client(http2=http2) as http:
        shown = (await http.get("/devices")).json()
        assert shown[DEVICE][0]["apns_id"] == APNS_ID
        assert shown[DEVICE][0]["payload"] == ALERT
        assert (await http.get(f"/devices/{DEVICE}")).json() == shown[DEVICE]
        assert (await http.get("/devices/unknown")).json() == []
        assert (await http.get("/counts?now")).json()["accepted"] == 1
        script = {DEVICE: [{"status": 503}, {"status": 503}]}
        assert (await http.post("/script", json=script)).status_code == 200
        assert reason(await caller.push()) == (503, "ServiceUnavailable")
        await http.delete("/script")
        await http.post("/kill", json={"tokens": [DEVICE]})
        assert reason(await caller.push()) == (410, "Unregistered")
        await http.post("/revive", json={"tokens": [DEVICE]})
        assert (await http.post("/temper", json={"temper": "accept-all"})).status_code == 200
        assert (await caller.push(headers={"apns-topic": None})).status_code == 200
        assert (await http.post("/connection", json={"max_streams": 7})).status_code == 200
        assert caller.emulator.rules == ConnectionRules(max_streams=7)
        assert (await http.delete("/devices")).status_code == 200
        assert (await http.get("/devices")).json() == (await http.get("/counts")).json() == {}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/script", "{", 400),
        ("POST", "/script", '{"ab": [{"sattus": 500}]}', 400),
        ("POST", "/script", json.dumps({"ab": [{}] * 10_001}), 400),
        ("POST", "/script", " " * 300_000 + "{}", 413),
        ("POST", "/script", '{"ab": [{"status": 99}]}', 400),
        ("POST", "/script", '{"ab": [{"retry_after": "1\\r\\nx: y"}]}', 400),
        ("POST", "/connection", '{"max_streams": -1}', 400),
        ("POST", "/temper", '{"temper": "angry"}', 400),
        ("PUT", "/temper", "", 405),
        ("POST", "/counts", "", 405),
    ],
)
async def test_a_wrong_control_request_changes_nothing(
    caller: Caller, method: str, path: str, body: str, status: int
) -> None:
    async with caller.client(http2=False) as http:
        response = await http.request(method, path, content=body)
    assert response.status_code == status
    assert response.json()["error"]
    assert (await caller.push()).status_code == 200


async def test_apns_itself_is_not_spoken_over_http1(caller: Caller) -> None:
    async with caller.client(http2=False) as http:
        response = await http.post(f"/3/device/{DEVICE}", content="{}", headers=caller.headers())
        assert response.status_code == 505
        assert (await http.head("/3/device/")).status_code == 505


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_curl_reads_the_devices(caller: Caller, landscape: Landscape, version: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    await caller.push()
    process = await asyncio.create_subprocess_exec(
        curl,
        "-s",
        version,
        "--cacert",
        str(landscape.ca_file),
        f"{caller.base}/devices",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out)[DEVICE][0]["payload"] == ALERT


def test_an_emulator_has_a_port_only_after_its_start(landscape: Landscape) -> None:
    emulator = ApnsEmulator(tls=landscape.server_tls(), keys=landscape.apns_keys, topics=[TOPIC])
    with pytest.raises(RuntimeError, match="not started"):
        _ = emulator.port


async def test_close_is_quick_and_may_be_repeated(caller: Caller) -> None:
    await caller.push()
    async with asyncio.timeout(3):
        await caller.emulator.close()
        await caller.emulator.close()
    with pytest.raises(httpx.TransportError):
        await caller.push()


def test_every_file_is_private(landscape: Landscape) -> None:
    files = [path for path in Path(landscape.folder).iterdir() if path.is_file()]
    assert len(files) >= 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
