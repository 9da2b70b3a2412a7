"""What an emulator has told its peer in SETTINGS, against what the peer does; and the nonsense it can say."""

from __future__ import annotations

import pytest
from hpack.exceptions import HPACKError
from hpack.hpack import Decoder
from hyperframe.frame import Frame, SettingsFrame

from pushgate.emulator.http2_promises import Promise, Promises
from pushgate.emulator.nonsense import NO_FRAMES, broken_headers

WINDOW, STREAMS, MORE = SettingsFrame.INITIAL_WINDOW_SIZE, SettingsFrame.MAX_CONCURRENT_STREAMS, 6


def told(promises: Promises, *, streams: int, window_open: bool = True) -> dict[int, int]:
    data = promises.frame(Promise(streams, window_open), {MORE: 9})
    frame, size = Frame.parse_frame_header(memoryview(data[:9]))
    assert isinstance(frame, SettingsFrame)
    frame.parse_body(memoryview(data[9 : 9 + size]))
    assert frame.settings.pop(MORE) == 9
    return dict(frame.settings)


def test_a_limit_binds_from_its_acknowledgement_on() -> None:
    promises = Promises()
    assert promises.allows_stream(10**6)
    told(promises, streams=5)
    assert (promises.allows_stream(4), promises.allows_stream(5)) == (True, False)
    assert not promises.is_overstepped(5), "the peer may not know yet"
    told(promises, streams=2)
    promises.acknowledged()
    assert (promises.is_overstepped(4), promises.is_overstepped(5)) == (False, True)
    promises.acknowledged()
    assert (promises.is_overstepped(1), promises.is_overstepped(2)) == (False, True)
    promises.acknowledged()
    assert promises.is_overstepped(2), "an acknowledgement of nothing changes nothing"


def test_the_window_is_told_when_it_closes_and_when_it_opens() -> None:
    promises = Promises()
    assert told(promises, streams=5) == {STREAMS: 5}
    assert told(promises, streams=5, window_open=False) == {STREAMS: 5, WINDOW: 0}
    assert told(promises, streams=6, window_open=False) == {STREAMS: 6, WINDOW: 0}
    assert told(promises, streams=6) == {STREAMS: 6, WINDOW: 65_535}
    assert told(promises, streams=0) == {STREAMS: 0}


def test_bodies_are_forbidden_between_the_acknowledgement_and_the_opening() -> None:
    promises = Promises()
    forbidden = []
    told(promises, streams=5)
    told(promises, streams=5, window_open=False)
    for step in (
        promises.acknowledged,
        promises.acknowledged,
        lambda: told(promises, streams=5),  # the peer may know already
    ):
        step()
        forbidden.append(promises.forbid_bodies)
    assert forbidden == [False, True, False]


@pytest.mark.parametrize("status", [200, 410, 503])
def test_broken_headers_have_a_status_and_cannot_be_decoded(status: int) -> None:
    data = broken_headers(7, status)
    frame, size = Frame.parse_frame_header(memoryview(data[:9]))
    assert (frame.stream_id, size) == (7, len(data) - 9)
    assert [tuple(field) for field in Decoder().decode(data[9:14], raw=True)] == [(b":status", b"%d" % status)]
    with pytest.raises(HPACKError):
        Decoder().decode(data[9:])


def test_what_is_no_frame_claims_to_be_larger_than_any_that_was_allowed() -> None:
    assert int.from_bytes(NO_FRAMES[:3], "big") > 2**20, "beyond 16 KiB it need not even be read"
