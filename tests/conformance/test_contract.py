"""The API against its contract, over a real socket: one case at least for each row of the contract's tables."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from pushgate.callers import by_certificate
from pushgate.errors import SpoolUnavailable
from pushgate.model import Caller, Delivery, PlainNotification
from tests.api import BATCH, NOTIFY, OTHER_APP, SEALED, Api, serving
from tests.samples import APNS_APP, badge_only, batch, body, device, encrypted, plain


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as running:
        yield running


# --- 200 --------------------------------------------------------------------------------------------------------


async def test_notify_answers_rejected_after_it_is_stored(api: Api) -> None:
    assert await api.post(NOTIFY, {"notification": plain()}) == (200, {"rejected": []})
    assert await api.waiting() == 1


async def test_a_plain_batch_answers_in_the_order_submitted(api: Api) -> None:
    items = [
        {"id": "z", "notification": plain()},
        {"id": "a", "notification": plain(device("unknown.app"), event_id="$2")},
    ]
    status, answer = await api.post(BATCH, {"notifications": items})
    assert status == 200
    assert answer == {
        "results": [
            {"id": "z", "status": "success", "rejected": []},
            {"id": "a", "status": "failed", "rejected": [], "error": "unknown app_id 'unknown.app'"},
        ],
        "summary": {"total": 2, "successful": 1, "failed": 1, "partial": 0},
    }


async def test_an_encrypted_batch_of_one_as_e_rezept_sends_it(api: Api) -> None:
    request = body(batch(encrypted()))
    answer = await api.raw(
        b"POST /push/v1/notifyEncrypted/batch HTTP/1.1\r\nHost: gateway.example.org:443\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: erp-processing-context\r\n"
        b"X-Request-Id: 3d2f\r\nContent-Length: %d\r\n\r\n" % len(request) + request
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["summary"]["successful"] == 1


async def test_badge_only_from_a_matrix_server_is_taken_and_never_a_repeat(api: Api) -> None:
    for _ in range(2):
        assert await api.post(NOTIFY, {"notification": badge_only()}) == (200, {"rejected": []})
    assert await api.waiting() == 2


async def test_no_devices_is_nothing_to_do_for_notify_and_failed_in_a_batch(api: Api) -> None:
    nobody = {**plain(), "devices": []}
    assert await api.post(NOTIFY, {"notification": nobody}) == (200, {"rejected": []})
    _, answer = await api.post(BATCH, batch(nobody))
    assert answer["results"] == [{"id": "item-0", "status": "failed", "rejected": [], "error": "no devices"}]


async def test_two_identical_devices_are_one_delivery(api: Api) -> None:
    await api.post(NOTIFY, {"notification": plain(device(), device(), device(pushkey="cd" * 32))})
    assert await api.waiting() == 2


async def test_a_delivery_names_one_device_only(api: Api) -> None:
    await api.post(NOTIFY, {"notification": plain(device(), device(pushkey="cd" * 32))})
    for lease in await api.spool.lease(APNS_APP, 2):
        notification = lease.delivery.notification
        assert getattr(notification, "devices") == (lease.delivery.device,)  # noqa: B009 - of a union


@pytest.mark.parametrize("month", ["2024-13", "2024-00", "24-11", "2024-11-01", "", "٢٠٢٤-١١"])
async def test_a_month_that_is_none_fails_its_item_alone(api: Api, month: str) -> None:
    status, answer = await api.post(SEALED, batch(encrypted(time_message_encrypted=month), encrypted()))
    assert (status, [result["status"] for result in answer["results"]]) == (200, ["failed", "success"])
    assert answer["results"][0]["error"] == "time_message_encrypted is not YYYY-MM"
    assert answer["results"][0]["rejected"] == []


async def test_an_impossible_pushkey_is_failed_with_a_reason_and_never_rejected(api: Api) -> None:
    key = "k" * 5000
    _, answer = await api.post(SEALED, batch(encrypted(device=device(pushkey=key))))
    (result,) = answer["results"]
    assert (result["status"], result["rejected"]) == ("failed", [])
    assert "longer than 4096" in result["error"]
    assert key not in json.dumps(answer)
    assert await api.waiting() == 0


# --- rejected ---------------------------------------------------------------------------------------------------


async def test_a_dead_pushkey_is_told_on_every_request(api: Api) -> None:
    await api.provider_rejects("dd" * 32)
    dead = device(pushkey="dd" * 32)
    for turn in range(2):
        assert await api.post(NOTIFY, {"notification": plain(dead, event_id=f"$n{turn}")}) == (
            200,
            {"rejected": ["dd" * 32]},
        )
        _, answer = await api.post(SEALED, batch(encrypted(device=dead)))
        (result,) = answer["results"]
        assert result == {
            "id": "item-0",
            "status": "failed",
            "rejected": ["dd" * 32],
            "error": "the pushkey is dead",
        }


async def test_partial_is_one_taken_and_one_dead(api: Api) -> None:
    await api.provider_rejects("dd" * 32)
    _, answer = await api.post(BATCH, batch(plain(device(pushkey="dd" * 32), device())))
    assert answer["results"] == [{"id": "item-0", "status": "partial", "rejected": ["dd" * 32]}]
    assert answer["summary"] == {"total": 1, "successful": 0, "failed": 0, "partial": 1}


async def test_a_dead_pushkey_is_dead_for_its_app_only(api: Api) -> None:
    await api.provider_rejects("dd" * 32)
    assert await api.post(NOTIFY, {"notification": plain(device(OTHER_APP, "dd" * 32))}) == (200, {"rejected": []})


async def test_a_later_registration_forgets_the_rejection(api: Api) -> None:
    await api.provider_rejects("dd" * 32, since_ms=1_700_000_000_000)
    again = device(pushkey="dd" * 32, pushkey_ts=1_700_000_001)
    assert await api.post(NOTIFY, {"notification": plain(again)}) == (200, {"rejected": []})
    old = device(pushkey="dd" * 32, pushkey_ts=1)
    assert await api.post(NOTIFY, {"notification": plain(old, event_id="$3")}) == (200, {"rejected": []})


async def test_a_good_device_beside_an_unknown_app_is_success_with_the_fault_in_error(api: Api) -> None:
    _, answer = await api.post(BATCH, batch(plain(device(), device("unknown.app"))))
    assert answer["results"] == [
        {"id": "item-0", "status": "success", "rejected": [], "error": "unknown app_id 'unknown.app'"}
    ]
    assert await api.post(NOTIFY, {"notification": plain(device(), device("unknown.app"), event_id="$4")}) == (
        200,
        {"rejected": []},
    )


async def test_notify_to_no_known_app_is_400_and_names_the_apps(api: Api) -> None:
    status, answer = await api.post(NOTIFY, {"notification": plain(device("a.b"), device("c.d"))})
    assert (status, answer["error"]) == (400, "Invalid data format")
    assert answer["details"]["reason"] == "unknown app_id 'a.b'; unknown app_id 'c.d'"


async def test_a_hostile_app_id_is_told_back_quoted_and_short(api: Api) -> None:
    _, answer = await api.post(BATCH, batch(plain(device("<script>\n\x00" + "x" * 10_000))))
    error = answer["results"][0]["error"]
    assert len(error) < 120
    assert "\n" not in error


async def test_an_error_stays_short_however_many_devices_are_at_fault(api: Api) -> None:
    _, answer = await api.post(BATCH, batch(plain(*(device(f"app-{n}") for n in range(500)))))
    assert answer["results"][0]["error"].endswith("; unknown app_id 'app-4'; and 495 more")


async def test_what_nobody_will_send_is_not_stored(api: Api) -> None:
    carried = device(data={"format": "f", "default_payload": {"a": 1}}, tweaks={"sound": "x"})
    await api.post(NOTIFY, {"notification": plain(carried)})
    await api.post(SEALED, batch(encrypted(device=carried)))
    for lease in await api.spool.lease(APNS_APP, 2):
        assert lease.delivery.device.data == {"format": "f"}
        notification = lease.delivery.notification
        kept = notification.devices[0] if isinstance(notification, PlainNotification) else notification.device
        assert (kept, kept.tweaks) == (lease.delivery.device, None)


async def test_a_large_notification_to_very_many_devices_is_failed_and_costs_nothing(api: Api) -> None:
    devices = [device(pushkey=f"{n:x}") for n in range(500)]
    large = plain(*devices, content={"x": "y" * 15_000})
    _, answer = await api.post(BATCH, batch(large, {**large, "event_id": "$2"}, {**large, "event_id": "$3"}))
    assert [result["status"] for result in answer["results"]] == ["success", "success", "failed"]
    assert answer["results"][2]["error"] == "too large for so many devices: send it in several requests"
    assert await api.waiting() == 1000


# --- repeats ----------------------------------------------------------------------------------------------------


async def test_a_repeat_is_answered_as_before_and_not_stored_again(api: Api) -> None:
    for request, path in (({"notification": plain()}, NOTIFY), (batch(encrypted()), SEALED)):
        before = await api.waiting()
        first = await api.post(path, request)
        assert await api.post(path, request) == first
        assert await api.waiting() == before + 1


async def test_the_same_event_to_another_device_is_no_repeat(api: Api) -> None:
    await api.post(NOTIFY, {"notification": plain()})
    await api.post(NOTIFY, {"notification": plain(device(pushkey="cd" * 32))})
    await api.post(NOTIFY, {"notification": plain(device(OTHER_APP))})
    assert await api.waiting() == 3


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [NOTIFY, BATCH, SEALED])
@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"\xff", b'{"notification":1,"notifications":1}'])
async def test_what_is_not_valid_is_400_in_every_endpoint(api: Api, path: str, sent: bytes) -> None:
    answer = await api.http.post(path, content=sent)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Invalid data format"
    assert answer.json()["details"]["path"].startswith("$")


async def test_the_batch_errors_and_their_details(api: Api) -> None:
    sealed = encrypted()
    status, answer = await api.post(SEALED, batch(*[sealed] * 101))
    assert (status, answer) == (400, {"error": "Batch size exceeds maximum limit", "details": {"max_batch_size": 100}})
    twice = {"notifications": [{"id": "a", "notification": sealed}] * 2}
    status, answer = await api.post(SEALED, twice)
    assert (status, answer["details"]) == (400, {"duplicate_ids": ["a"]})
    status, answer = await api.post(BATCH, batch(plain(content={"x": "y" * 65_536})))
    assert (status, answer["details"]) == (400, {"max_notification_size_kb": 64})
    assert await api.waiting() == 0


async def test_who_is_not_known_gets_401() -> None:
    async with serving(identify=by_certificate(())) as api:
        for path in (NOTIFY, "/nowhere"):
            assert await api.post(path, {}) == (401, {"error": "Missing or invalid mutual TLS (mTLS) certificate."})


async def test_an_app_that_is_not_allowed_fails_its_item() -> None:
    async with serving(identify=lambda scope: Caller("erp", ("de.example.*",))) as api:
        _, answer = await api.post(SEALED, batch(encrypted(), encrypted(device=device(OTHER_APP))))
        good, bad = answer["results"]
        assert (good["status"], bad["status"], bad["rejected"]) == ("success", "failed", [])
        assert bad["error"] == "app_id 'org.example.other' is not allowed for this caller"


async def test_a_caller_for_sealed_ones_only_cannot_send_plain_ones() -> None:
    async with serving(identify=lambda scope: Caller("erp", plain=False)) as api:
        assert (await api.post(NOTIFY, {"notification": plain()}))[0] == 401
        assert (await api.post(BATCH, batch(plain())))[0] == 401
        assert (await api.post(SEALED, batch(encrypted())))[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/push/v1", "/push/v1/", "/push/v1/notify/", "/push/v1/Notify", "/push/v2/notify"]
)
async def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    status, answer = await api.post(path, {})
    assert (status, set(answer)) == (404, {"error"})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", [NOTIFY, BATCH, SEALED])
async def test_a_wrong_method_is_405_with_allow(api: Api, method: str, path: str) -> None:
    answer = await api.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "error" in answer.json()


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/problem+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonp", 415),
    ],
)
async def test_a_body_is_json_or_says_nothing(api: Api, content_type: str | None, status: int) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await api.http.post(NOTIFY, content=body({"notification": plain()}), headers=headers)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


async def test_a_compressed_body_is_415(api: Api) -> None:
    answer = await api.http.post(NOTIFY, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (NOTIFY, "Notification object is too large."),
        (BATCH, "Batch request payload is too large."),
        (SEALED, "Batch request payload is too large."),
    ],
)
async def test_a_body_over_the_limit_is_413_from_its_announced_length(api: Api, path: str, error: str) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), 1024 * 1024 + 1)
    answer = await api.raw(head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": error, "details": {"max_request_size_kb": 1024}}


async def test_a_chunked_body_is_413_as_soon_as_it_passes_the_limit(api: Api) -> None:
    head = b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = await api.raw(head, then=chunk * 17)  # and never the last chunk
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_caller_that_sends_far_too_much_reads_its_413(api: Api) -> None:
    answer = await api.http.post(SEALED, content=b" " * (8 * 1024 * 1024))
    assert answer.status_code == 413


async def test_a_caller_that_asks_before_sending_is_not_told_to_continue(api: Api) -> None:
    head = b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n"
    answer = await api.raw(head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


async def test_a_body_of_256_kb_is_read_on_every_path(api: Api) -> None:
    padding = b" " * (256 * 1024)
    for path, request in ((NOTIFY, {"notification": plain()}), (BATCH, batch(plain())), (SEALED, batch(encrypted()))):
        answer = await api.http.post(path, content=(body(request) + padding)[: 256 * 1024])
        assert answer.status_code == 200


async def test_a_spool_that_cannot_take_it_is_503_with_retry_after(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(deliveries: object) -> int:
        raise SpoolUnavailable("disk full")

    monkeypatch.setattr(api.spool, "put", full)
    answer = await api.http.post(NOTIFY, json={"notification": plain()})
    assert (answer.status_code, answer.json()) == (503, {"error": "Push Gateway under maintenance or overloaded."})
    assert int(answer.headers["retry-after"]) > 0


async def test_a_draining_gateway_is_503_with_retry_after(api: Api) -> None:
    api.application.draining = True
    answer = await api.http.post(NOTIFY, json={"notification": plain()})
    assert (answer.status_code, answer.json()) == (503, {"error": "Push Gateway under maintenance or overloaded."})
    assert int(answer.headers["retry-after"]) > 0


async def test_a_fault_of_ours_is_500_with_nothing_of_the_inside(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(deliveries: list[Delivery]) -> int:
        raise ValueError(deliveries[0].device.pushkey)

    monkeypatch.setattr(api.spool, "put", broken)
    status, answer = await api.post(NOTIFY, {"notification": plain()})
    assert (status, answer) == (500, {"error": "Unexpected failure during processing."})
    written = "".join(capsys.readouterr())
    assert "ValueError" in written
    assert "ab" * 32 not in written


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with serving(request_timeout_s=0.1) as api:
        answer = await api.raw(b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 400 ")


# --- HTTP -------------------------------------------------------------------------------------------------------


async def test_a_base_path_stands_before_every_path() -> None:
    async with serving(base_path="/tenant") as api:
        assert (await api.post(NOTIFY, {"notification": plain()}))[0] == 200
        assert (await api.http.get("/push/v1/docs")).status_code == 200
        answer = await api.http.post(f"http://127.0.0.1:{api.port}/push/v1/notify", json={})
        assert answer.status_code == 404


async def test_documents_are_served_and_only_read(api: Api) -> None:
    assert (await api.http.get("/push/v1/openapi.json")).headers["content-type"] == "application/json"
    assert (await api.http.head("/push/v1/docs")).status_code == 200
    answer = await api.http.post("/push/v1/docs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_one_connection_serves_many_requests_pipelined(api: Api) -> None:
    sent = body({"notification": plain()})
    one = b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent
    answer = await api.raw(one * 2 + one.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    assert answer.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00",
        b"hello\r\n\r\n",
        b"POST /push/v1/notify HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_400_in_json_and_closed(api: Api, garbage: bytes) -> None:
    answer = await api.raw(garbage)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "Invalid data format"
