"""Ports that the tests give to servers."""

import socket

from tests.ports import OF_A_WORKER, free_port


def test_no_port_is_told_twice_in_a_round_nor_one_that_somebody_has() -> None:
    round_ = [free_port() for _ in range(OF_A_WORKER // 2)]
    assert len(set(round_)) == len(round_)
    later = {free_port() for _ in range(OF_A_WORKER // 2)}
    with socket.create_server(("127.0.0.1", round_[0])), socket.create_server(("127.0.0.1", round_[1])):
        again = [free_port() for _ in range(OF_A_WORKER - 2)]
    assert not {round_[0], round_[1]} & set(again)
    assert later & set(again)
