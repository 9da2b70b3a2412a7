"""request_id: the caller's own id where it is a good one, else ours; the trace that a request is part of."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pushgate.request_id import CURRENT, RequestIds

IDS = RequestIds(entropy=lambda count: b"\x01" * count)


@pytest.fixture(autouse=True)
def nobody_asks_afterwards() -> Iterator[None]:
    token = CURRENT.set(None)
    yield
    CURRENT.reset(token)


@pytest.mark.parametrize(
    "given",
    [b"a", b"9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", b"A.b_c-0", b"x" * 128, b"f" * 63, b"f" * 63 + b"x" + b"f" * 63],
)
def test_a_well_formed_id_is_taken(given: bytes) -> None:
    assert IDS.begin([(b"host", b"x"), (b"x-request-id", given)]).request_id == given


@pytest.mark.parametrize(
    "given",
    [
        *(b"", b"x" * 129, b"a b", b"a\nb", b"a\r\nset-cookie: x", "é".encode(), b"<script>", b"a:b"),
        *(
            b"f" * 64,
            b"0" * 100,
            b"x-" + b"aB" * 32,
            b"aB" * 32 + b"-x",
            b"push." + b"0" * 64 + b".apns",
            b"x" + b"f" * 65,
        ),
    ],
)
def test_another_one_is_replaced_by_ours(given: bytes) -> None:
    made = IDS.begin([(b"x-request-id", given)]).request_id
    assert re.fullmatch(rb"010101010101-[0-9a-f]+", made)
    assert IDS.begin([]).request_id != made


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""),
        (b"00-00000000000000000000000000000000-00f067aa0ba902b7-01", ""),
        (b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", ""),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736", ""),
        (b"", ""),
    ],
)
def test_the_trace_is_known_by_traceparent(traceparent: bytes, trace_id: str) -> None:
    assert IDS.begin([(b"traceparent", traceparent)]).trace_id == trace_id
