"""The connection and the pool against a peer built on h2 that does, over real TLS, what a test wants of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import h2.settings
import pytest

from pushgate.errors import NotSent, Unanswered
from pushgate.http2 import Connection, Pool, Response, encode_headers
from pushgate.http2.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Code = h2.settings.SettingCodes
QUICK = Limits(quiet_s=0.15, ack_s=0.15, linger_s=0.1)


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def goaway(last_stream_id: int, code: int = 0, debug: bytes = b"") -> bytes:
    return raw(7, 0, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


async def ask(way: Connection | Pool, scene: Any, body: bytes = b"body", timeout_s: float = 5.0) -> Response:
    return await way.request(scene.head(), body, timeout_s=timeout_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("window", [1, 1000, 65_535, 1_000_000])
def test_bodies_of_any_size_arrive_whole_through_any_window(
    run: Run, scene: Any, server_tls: ssl.SSLContext, window: int
) -> None:
    async def main() -> None:
        scene.settings[Code.INITIAL_WINDOW_SIZE] = window
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            bodies = [b"", b"x", b"y" * 300] if window == 1 else [b"", b"y" * 1900, b"z" * 100_000]
            responses = await asyncio.gather(*(ask(connection, scene, body) for body in bodies * 3))
            for body, response in zip(bodies * 3, responses, strict=True):
                assert response.body.decode() == hashlib.sha256(body).hexdigest()
            await connection.close(1)
            assert scene.peers[0].goaways == [0]

    run(main())


def test_head_reaches_the_peer_as_it_was_and_the_answers_head_comes_back(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        scene.settings[Code.HEADER_TABLE_SIZE] = 0
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            for _ in range(2):
                response = await ask(connection, scene)
            assert response.headers == {"apns-id": "id-3"}
            peer = scene.peers[0]
            assert peer.heads[1] == peer.heads[3]
            assert dict(peer.heads[3]) == {
                ":method": "POST",
                ":scheme": "https",
                ":authority": f"127.0.0.1:{scene.port}",
                ":path": "/3/device/x",
                "authorization": "bearer x",
            }
            await connection.close(1)

    run(main())


def test_very_large_head_goes_out_in_continuations(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            head = scene.head() + encode_headers([("x-long", "v" * 40_000)])
            assert (await connection.request(head, b"x", timeout_s=5)).status == 200
            assert dict(scene.peers[0].heads[1])["x-long"] == "v" * 40_000
            await connection.close(1)

    run(main())


def test_one_stream_until_the_first_answer_then_more_is_obeyed(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    """As APNs does with tokens: MAX_CONCURRENT_STREAMS is 1 at first."""

    async def main() -> None:
        scene.settings[Code.MAX_CONCURRENT_STREAMS] = 1

        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            if len(scene.received) == 1:
                peer.h2.update_settings({Code.MAX_CONCURRENT_STREAMS: 10})
            asyncio.get_running_loop().call_later(0.01, peer.answer, stream_id)

        scene.on_request = answer
        async with scene.listen(server_tls):
            pool = Pool(scene.target, max_connections=1, limits=QUICK)
            responses = await asyncio.gather(*(ask(pool, scene) for _ in range(100)))
            assert len(responses) == 100
            assert scene.peers[0].most_open == 10
            await pool.close(1)

    run(main())


def test_limit_lowered_to_nothing_and_raised_again_is_obeyed(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async with scene.listen(server_tls):
            pool = Pool(scene.target, max_connections=1, limits=QUICK)
            await ask(pool, scene)
            (peer,) = scene.peers
            peer.h2.update_settings({Code.MAX_CONCURRENT_STREAMS: 0})
            peer.flush()
            await asyncio.sleep(0.05)
            requests = [asyncio.create_task(ask(pool, scene)) for _ in range(10)]
            with pytest.raises(NotSent, match="no free stream in time"):
                await ask(pool, scene, timeout_s=0.05)
            assert len(scene.received) == 1
            assert (pool.waiting, pool.connections) == (10, 1)
            peer.h2.update_settings({Code.MAX_CONCURRENT_STREAMS: 3})
            peer.most_open = 0
            peer.flush()
            await asyncio.gather(*requests)
            assert peer.most_open <= 3
            await pool.close(1)

    run(main())


def test_window_lowered_mid_way_is_paid_back_before_more_is_sent(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        scene.acknowledges = False

        def shrink(peer: Any, stream_id: int) -> None:
            peer.h2.update_settings({Code.INITIAL_WINDOW_SIZE: 10})
            asyncio.get_running_loop().call_later(0.05, grow, peer, stream_id)

        def grow(peer: Any, stream_id: int) -> None:
            peer.h2.increment_flow_control_window(200_000)
            peer.h2.increment_flow_control_window(200_000, stream_id)
            peer.flush()

        scene.on_head = shrink
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            response = await ask(connection, scene, b"x" * 150_000)
            assert response.body.decode() == hashlib.sha256(b"x" * 150_000).hexdigest()
            await connection.close(1)

    run(main())


def test_goaway_loses_nothing_and_doubles_nothing(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        held: list[tuple[Any, int, bytes]] = []

        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            if peer is not scene.peers[0]:
                peer.answer(stream_id, body)
                return
            if stream_id <= 9:
                held.append((peer, stream_id, body))
            if stream_id == 9:
                peer.raw(goaway(2**31 - 1, debug=b'{"reason":"Shutdown"}') + goaway(9))

        scene.on_request = answer
        async with scene.listen(server_tls):
            pool = Pool(scene.target, limits=QUICK)
            requests = [asyncio.create_task(ask(pool, scene, b"%d" % number)) for number in range(30)]
            await until(lambda: len(scene.peers) == 2)
            await until(lambda: sum(request.done() for request in requests) == 25)
            for peer, stream_id, body in held:
                peer.answer(stream_id, body)
            responses = await asyncio.gather(*requests)
            assert [response.body for response in responses] == [b"%d" % number for number in range(30)]
            assert (pool.goaways, pool.repeats, pool.connections_opened) == (1, 25, 2)
            await until(lambda: bool(scene.peers[0].is_lost))
            await pool.close(1)

    run(main())


def test_reason_of_a_goaway_can_be_read(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        debug = json.dumps({"reason": "BadCertificateEnvironment", "timestamp": 1}).encode()
        scene.on_request = lambda peer, stream_id, body: peer.raw(goaway(0, 2, debug))
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            with pytest.raises(NotSent, match="going away"):
                await ask(connection, scene)
            assert connection.goaway is not None
            assert (connection.goaway.reason, connection.goaway.code) == ("BadCertificateEnvironment", 2)
            await connection.close(1)

    run(main())


def test_refused_stream_is_sent_again_and_another_reset_is_not(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            if body == b"refuse" and len(scene.received) < 3:
                peer.h2.reset_stream(stream_id, 7)
            elif body == b"break":
                peer.h2.reset_stream(stream_id, 2)
            else:
                peer.answer(stream_id)

        scene.on_request = answer
        async with scene.listen(server_tls):
            pool = Pool(scene.target, limits=QUICK)
            assert (await ask(pool, scene, b"refuse")).status == 200
            with pytest.raises(Unanswered, match="INTERNAL_ERROR"):
                await ask(pool, scene, b"break")
            assert scene.received == [b"refuse"] * 3 + [b"break"]
            assert pool.repeats == 2
            await pool.close(1)

    run(main())


def test_early_answer_and_reset_without_error_stop_the_upload(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        scene.acknowledges = False

        def answer(peer: Any, stream_id: int) -> None:
            peer.answer(stream_id, b"too large", 413)
            peer.h2.reset_stream(stream_id, 0)

        scene.on_head = answer
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            response = await ask(connection, scene, b"x" * 500_000)
            assert (response.status, response.body) == (413, b"too large")
            assert connection.is_usable
            await connection.close(1)

    run(main())


def test_interim_answers_padding_continuations_and_trailers_are_understood(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            peer.h2.send_headers(stream_id, [(":status", "103"), ("link", "x")])
            peer.h2.send_headers(stream_id, [(":status", "418"), ("x-long", "v" * 20_000)])
            for _ in range(3):
                peer.h2.send_data(stream_id, b"part", pad_length=200)
            peer.h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

        scene.on_request = answer
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            response = await ask(connection, scene)
            assert (response.status, response.body) == (418, b"partpartpart")
            assert response.headers == {"x-long": "v" * 20_000}
            await connection.close(1)

    run(main())


def test_long_answer_is_cut_and_the_connection_goes_on(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            peer.h2.send_headers(stream_id, [(":status", "503")])
            for _ in range(6):
                peer.h2.send_data(stream_id, b"x" * 16_000)

        scene.on_request = answer
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=QUICK)
            response = await ask(connection, scene)
            assert (response.status, len(response.body)) == (503, 65_536)
            await until(lambda: scene.peers[0].resets == [(1, 8)])
            scene.on_request = lambda peer, stream_id, body: peer.answer(stream_id)
            assert (await ask(connection, scene)).status == 200
            await connection.close(1)

    run(main())


def test_late_request_is_cancelled_at_the_peer_and_its_place_is_free(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        scene.settings[Code.MAX_CONCURRENT_STREAMS] = 1
        scene.on_request = lambda peer, stream_id, body: None
        async with scene.listen(server_tls):
            pool = Pool(scene.target, max_connections=1, limits=Limits(linger_s=0.1))
            with pytest.raises(Unanswered, match="no answer in time"):
                await ask(pool, scene, timeout_s=0.1)
            await until(lambda: scene.peers[0].resets == [(1, 8)])
            scene.on_request = lambda peer, stream_id, body: peer.answer(stream_id)
            assert (await ask(pool, scene)).status == 200
            await pool.close(1)

    run(main())


def test_peer_that_hangs_is_left_and_replaced(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async with scene.listen(server_tls):
            pool = Pool(scene.target, limits=QUICK)
            await ask(pool, scene)
            scene.is_deaf = True
            began = asyncio.get_running_loop().time()
            ends = await asyncio.gather(*(ask(pool, scene) for _ in range(5)), return_exceptions=True)
            assert [str(end) for end in ends] == ["the peer is silent"] * 5
            assert asyncio.get_running_loop().time() - began < 2
            assert (pool.pings, pool.connections_lost) == (1, 1)
            scene.is_deaf = False
            assert (await ask(pool, scene)).status == 200
            await pool.close(1)

    run(main())


def test_slow_peer_that_acknowledges_pings_is_waited_for(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        scene.on_request = lambda peer, stream_id, body: asyncio.get_running_loop().call_later(
            0.6, peer.answer, stream_id
        )
        async with scene.listen(server_tls):
            pool = Pool(scene.target, limits=QUICK)
            assert (await ask(pool, scene)).status == 200
            assert pool.pings >= 2
            assert pool.connections_lost == 0
            await pool.close(1)

    run(main())


def test_peer_that_hangs_up_leaves_the_requests_unanswered_and_the_next_ones_go_on(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        async with scene.listen(server_tls):
            pool = Pool(scene.target, limits=QUICK)
            await ask(pool, scene)
            scene.on_request = lambda peer, stream_id, body: peer.hang_up()
            with pytest.raises(Unanswered, match="connection lost"):
                await ask(pool, scene)
            scene.on_request = lambda peer, stream_id, body: peer.answer(stream_id)
            assert (await ask(pool, scene)).status == 200
            assert (pool.connections_lost, pool.connections_opened) == (1, 2)
            await pool.close(1)

    run(main())


def test_peer_that_reads_nothing_holds_the_requests_back_and_they_end(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        window = b"\0\x04" + (2**31 - 1).to_bytes(4, "big")
        scene.greeting = raw(4, 0, 0, window) + raw(8, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
        scene.is_deaf = True
        async with scene.listen(server_tls):
            connection = await Connection.open(scene.target, limits=Limits(linger_s=0.1))
            scene.peers[0].transport.pause_reading()
            requests = []
            while connection.has_room:
                requests.append(asyncio.create_task(ask(connection, scene, bytes(4_000_000), 0.5)))
                await asyncio.sleep(0.01)
            assert 0 < connection.free_streams < 1000
            ends = await asyncio.gather(*requests, return_exceptions=True)
            assert {type(end) for end in ends} == {Unanswered}
            scene.peers[0].hang_up()
            await connection.close()

    run(main())
