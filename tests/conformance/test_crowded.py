"""An app that is held up takes no more than its share of the spool: callers of the others see nothing of it."""

from __future__ import annotations

from pushgate.spool.limits import Limits
from tests.api import BATCH, NOTIFY, SEALED, serving
from tests.samples import APNS_APP, FCM_APP, batch, device, encrypted, plain

SICK, WELL = APNS_APP, FCM_APP


def sealed(app: str, number: int) -> dict[str, object]:
    return encrypted(device=device(app, f"{number:064x}"))


async def test_past_its_share_an_apps_notifications_fail_and_those_of_others_are_taken() -> None:
    async with serving(room=Limits(max_waiting=10, share_of_lane=0.5)) as api:
        status, answer = await api.post(SEALED, batch(*(sealed(SICK, n) for n in range(5))))
        assert [each["status"] for each in answer["results"]] == ["success"] * 5
        status, answer = await api.post(SEALED, batch(sealed(SICK, 6), sealed(WELL, 7)))
        sick, well = answer["results"]
        assert (status, sick["status"], sick["rejected"], well["status"]) == (200, "failed", [], "success")
        assert sick["error"] == f"too many wait for app_id '{SICK}': try again later"
        status, answer = await api.post(BATCH, batch(plain(device(SICK, "a" * 64), device(WELL, "b"))))
        (both,) = answer["results"]
        assert (both["status"], both["rejected"], "too many wait" in both["error"]) == ("success", [], True)
        assert await api.waiting() == 7


async def test_a_single_one_past_the_share_is_answered_503_for_it_may_be_taken_later() -> None:
    async with serving(room=Limits(max_waiting=4, share_of_lane=0.5)) as api:
        await api.post(SEALED, batch(sealed(SICK, 1), sealed(SICK, 2)))
        answer = await api.http.post(NOTIFY, json={"notification": plain(device(SICK, "a" * 64))})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        answer = await api.http.post(NOTIFY, json={"notification": plain(device(WELL, "b"))})
        assert (answer.status_code, answer.json()) == (200, {"rejected": []})
