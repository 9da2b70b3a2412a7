"""Requests whose framing is sound: methods, targets, packed bodies. Who could read them as something else?

Sources: RFC 9110 (methods §9, content codings §8.4), RFC 9112 (request targets §3.2), RFC 3986 §6.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.hardening import BODY, STOWAWAY, Case, head, length
from tests.conformance.hardening_framing import CHUNKED, HIDDEN, chunks, closed, refused, taken

METHODS = "GET HEAD PUT DELETE OPTIONS TRACE PATCH PROPFIND MKCOL COPY MOVE LOCK SEARCH PURGE LINK REPORT".split()  # noqa: SIM905 - to be read


def methods() -> Iterator[Case]:
    """Every method of HTTP and of what is built on it: 405 with what is allowed, and no tunnel."""
    for name in METHODS:
        start = b"%b /push/v1/notify HTTP/1.1" % name.encode()
        if name != "HEAD":  # see test_head_is_answered_without_a_body
            yield taken(f"method {name}", head(b"X-Secret: s3cret", start=start), 405)
            yield refused(f"method {name} with a body", head(length(HIDDEN), start=start) + HIDDEN, 405)
    for target in ("example.org:443", "/push/v1/notify", "*", "[::1]:443"):
        start = f"CONNECT {target} HTTP/1.1".encode()
        yield closed(f"CONNECT {target}", head(start=start) + STOWAWAY, 405)
        yield closed(f"CONNECT {target} with a body", head(length(STOWAWAY), start=start) + STOWAWAY, 405)
    yield closed("CONNECT in HTTP/1.0", head(start=b"CONNECT example.org:443 HTTP/1.0") + STOWAWAY, 405)


NO_PATHS = (  # noqa: SIM905 - to be read
    "//push/v1/notify /push//v1/notify /./push/v1/notify /push/./v1/notify /push/../push/v1/notify /x/../push/v1/notify"
    " /push/v1/notify/.. /push/v1/notify/. /push/v1/notify/ /push/v1/x/../notify /../push/v1/notify"
    " /%2e/push/v1/notify /x/%2e%2e/push/v1/notify /x/%2E./push/v1/notify /push/v1/notify%00 /push/v1/notify%20"
    " /push/v1/notify%2f /push/v1/notify;x /push/v1/notify;x=y /push/v1;x/notify /push/v1/notify,x /push/v1/Notify"
    " /PUSH/v1/notify /push/V1/notify /push/v1/notify\\ /push/v1\\notify /push/v1/notify% /push/v1/notify%zz"
    " /push/v1/notify%c0%af /push%c0%afv1/notify /push/v1/notify%ff /push/v1/%25notify /push/v1/%256eotify"
    ' /push/v1/notify%0d%0aX:y /push/v1/notify%3fx /push/v1/notify%23x /push/v1/notify" /push/v1/notify<'
    " /push/v1/notify* /push/v1/notify/batch/ /push/v1/notify/batch/notify /push/v1 /push /push/v1/notify.json"
    " //x/push/v1/notify ///push/v1/notify /.//push/v1/notify /~ /push/v1/notify~ /push/v1/docs/../notify"
).split()
"""None of them is a path of ours, whatever a proxy in front would make of it."""


def targets() -> Iterator[Case]:
    """Paths and queries."""
    for path in NO_PATHS:
        start = b"POST %b HTTP/1.1" % path.encode()
        yield taken(f"path {path}", head(b"Content-Length: 0", start=start), 404)
        yield refused(f"path {path} with a body", head(length(HIDDEN), start=start) + HIDDEN, 404)
    for query in ("?", "?x", "?x=/../", "?/push/v1/docs", "?%00", "?a=b&a=c", "#f"):
        start = b"POST /push/v1/notify%b HTTP/1.1" % query.encode()
        yield taken(f"query {query}", head(length(), start=start) + BODY)
    yield taken("a batch is not a single one", head(length(), start=b"POST /push/v1/notify/batch HTTP/1.1") + BODY, 400)
    yield taken("a path of 20 KB", head(start=b"GET /" + b"a" * 20_000 + b" HTTP/1.1"), 404)


COMPRESSED = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "GZIP", "gzip, gzip", "identity, gzip", "", "x")


def compressed() -> Iterator[Case]:
    """What is packed is refused unread; nothing is unpacked that could be a bomb."""
    for coding in COMPRESSED:
        line = b"Content-Encoding: " + coding.encode()
        yield refused(f"content coding {coding!r}", head(line, length(HIDDEN)) + HIDDEN, 415)
        yield refused(f"content coding {coding!r} in chunks", head(line, CHUNKED) + chunks(), 415)
    yield refused(
        "two content codings",
        head(b"Content-Encoding: identity", b"Content-Encoding: gzip", length(HIDDEN)) + HIDDEN,
        415,
    )
    yield taken("no content coding", head(b"Content-Encoding: identity", length()) + BODY)
    yield taken("other codings are offered", head(b"Accept-Encoding: gzip, br", b"TE: trailers, gzip", length()) + BODY)
