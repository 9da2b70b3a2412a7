"""Targets: how they are named in a request, and what they do not show."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pushgate.http2 import Proxy, Target


@pytest.mark.parametrize(
    ("host", "port", "authority"),
    [
        ("push.example.org", 443, "push.example.org"),
        ("push.example.org", 2197, "push.example.org:2197"),
        ("::1", 443, "[::1]"),
        ("::1", 2197, "[::1]:2197"),
    ],
)
def test_authority_has_the_port_unless_it_is_the_usual_one(host: str, port: int, authority: str) -> None:
    assert Target(host, port, cast(Any, None)).authority == authority


def test_proxy_does_not_show_its_authorization() -> None:
    proxy = Proxy("proxy.example.org", 3128, "Basic c2VjcmV0")
    assert repr(proxy) == "Proxy(host='proxy.example.org', port=3128)"
    assert proxy.__rich_repr__() == [("host", "proxy.example.org"), ("port", 3128)]
