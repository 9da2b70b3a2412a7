"""Messages whose framing or lines two readers could read in two ways, and sound ones.

Sources: RFC 9112 (bare CR and LF §2.2, whitespace §5.1, folding §5.2, lengths §6, chunks §7.1), and what was published
on request smuggling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.conformance.hardening import BODY, STOWAWAY, Case, End, head, length

SIZE = b"%x" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"
HIDDEN = LAST + STOWAWAY
"""A body to whoever reads the length, an empty one and another request to whoever reads chunks, two lines of nothing to
whoever reads neither."""


def taken(name: str, sent: bytes, *statuses: int) -> Case:
    return Case(name, sent, End.TAKEN, frozenset(statuses or (200,)))


def refused(name: str, sent: bytes, *statuses: int) -> Case:
    return Case(name, sent, End.REFUSED, frozenset(statuses))


def closed(name: str, sent: bytes, *statuses: int) -> Case:
    return Case(name, sent, End.CLOSED, frozenset(statuses or (400,)))


def chunks(size: bytes = SIZE, *, end: bytes = LAST, line: bytes = b"\r\n", after: bytes = b"\r\n") -> bytes:
    """`BODY` as one chunk."""
    return size + line + BODY + after + end


# --- how long is the body? Two readers, two answers. The stowaway is inside for one of them.

TWO_LENGTHS: Mapping[str, tuple[bytes, ...]] = {
    "length and chunked": (b"Content-Length: %d", CHUNKED),
    "chunked and length": (CHUNKED, b"Content-Length: %d"),
    "no length and chunked": (b"Content-Length: 0", CHUNKED),
    "the same length twice": (b"Content-Length: %d", b"Content-Length: %d"),
    "two lengths, the longer first": (b"Content-Length: %d", b"Content-Length: 5"),
    "two lengths, the shorter first": (b"Content-Length: 5", b"Content-Length: %d"),
    "a list of lengths": (b"Content-Length: %d, 5",),
    "a list of equal lengths": (b"Content-Length: %d, %d",),
    "length with plus": (b"Content-Length: +%d",),
    "length with minus": (b"Content-Length: -%d",),
    "length with a space inside": (b"Content-Length: 5 %d",),
    "length in hexadecimal": (b"Content-Length: 0x%x",),
    "length as a float": (b"Content-Length: %d.0",),
    "length with an exponent": (b"Content-Length: 1e3",),
    "length in quotes": (b'Content-Length: "%d"',),
    "length with a semicolon": (b"Content-Length: %d;",),
    "length with a vertical tab": (b"Content-Length: \x0b%d",),
    "length with a form feed": (b"Content-Length: \x0c%d",),
    "length with a no-break space": (b"Content-Length: \xa0%d",),
    "length in other digits": ("Content-Length: ٥".encode(),),
    "length with a NUL": (b"Content-Length: %d\x00",),
    "length that is empty": (b"Content-Length:",),
    "length that is blank": (b"Content-Length:  ",),
    "length and a space before the colon": (b"Content-Length : %d",),
    "length and a tab before the colon": (b"Content-Length\t: %d",),
    "length on a folded line": (b"Content-Length:\r\n %d",),
    "length on a line that goes on": (b"Content-Length: 5\r\n %d",),
    "length on a line that goes on with a tab": (b"X: y\r\n\tContent-Length: 5", b"Content-Length: %d"),
    "length behind a bare LF": (b"X: y\nContent-Length: %d",),
    "length behind a bare CR": (b"X: y\rContent-Length: %d",),
    "length behind LF and CR": (b"X: y\n\rContent-Length: %d",),
    "length and a name with a NUL": (b"Content-Length\x00: 5", b"Content-Length: %d"),
    "length and a name in brackets": (b"(Content-Length): 5", b"Content-Length: %d"),
    "identity and length": (b"Transfer-Encoding: identity", b"Content-Length: %d"),
    "unknown coding and length": (b"Transfer-Encoding: cow", b"Content-Length: %d"),
    "chunked behind an Upgrade and a bare LF": (b"Upgrade: x\nTransfer-Encoding: chunked", b"Content-Length: %d"),
    "chunked behind an Upgrade and a bare CR": (b"Upgrade: x\rTransfer-Encoding: chunked", b"Content-Length: %d"),
    "folded under an Upgrade": (b"Upgrade: x\r\n Transfer-Encoding: chunked", b"Content-Length: %d"),
}

CODINGS: Mapping[str, tuple[bytes, ...]] = {
    "xchunked": (b"xchunked",),
    "chunkedx": (b"chunkedx",),
    "chunked, identity": (b"chunked, identity",),
    "identity, chunked": (b"identity, chunked",),
    "chunked, chunked": (b"chunked, chunked",),
    "gzip, chunked": (b"gzip, chunked",),
    "identity": (b"identity",),
    "none": (b"",),
    "a comma before": (b",chunked",),
    "a comma behind": (b"chunked,",),
    "a parameter": (b"chunked;q=1",),
    "quotes": (b'"chunked"',),
    "single quotes": (b"'chunked'",),
    "a tab behind": (b"chunked\t",),
    "a vertical tab": (b"\x0bchunked",),
    "a NUL behind": (b"chunked\x00",),
    "a no-break space": (b"\xa0chunked",),
    "a folded line": (b"\r\n chunked",),
    "twice": (b"chunked", b"chunked"),
    "chunked and then another": (b"chunked", b"cow"),
    "chunked and then identity": (b"chunked", b"identity"),
    "another and then chunked": (b"cow", b"chunked"),
    "identity and then chunked": (b"identity", b"chunked"),
}

CODING_NAMES = (b"Transfer-Encoding :", b"Transfer-Encoding\t:", b" Transfer-Encoding:", b"Transfer Encoding:")


def doubtful_lengths() -> Iterator[Case]:
    """Whoever reads the one way finds the end of the body before the stowaway, whoever reads the other way behind."""
    for name, lines in TWO_LENGTHS.items():
        filled = [line % ((len(HIDDEN),) * line.count(b"%")) for line in lines]
        yield closed(name, head(*filled) + HIDDEN)
    for bits in (32, 63, 64, 128):
        wrapping = head(b"Content-Length: %d" % (2**bits + len(HIDDEN)))
        yield closed(f"length that wraps at {bits} bits", wrapping + HIDDEN, 400, 413)
    for name, values in CODINGS.items():
        lines = tuple(b"Transfer-Encoding: " + value for value in values)
        yield closed(f"coding: {name}", head(*lines) + chunks() + STOWAWAY, 400, 415)
        yield closed(f"coding with a length: {name}", head(length(), *lines) + BODY + STOWAWAY, 400, 415)
    for spelling in CODING_NAMES:
        yield closed(f"coding by the name {spelling!r}", head(spelling + b" chunked") + chunks() + STOWAWAY)
    yield closed("no length at all", head() + BODY + STOWAWAY)
    yield closed("a name like that of the length", head(b"Content_Length: %d" % len(STOWAWAY)) + b"{" + STOWAWAY)


CHUNK_SIZES: Mapping[str, bytes] = {
    "plus": b"+" + SIZE,
    "minus": b"-" + SIZE,
    "0x": b"0x" + SIZE,
    "a space before": b" " + SIZE,
    "a space behind": SIZE + b" ",
    "a tab behind": SIZE + b"\t",
    "a comma": SIZE + b",",
    "an underscore": b"1_0",
    "a letter": b"g",
    "nothing": b"",
    "a blank": b" ",
    "a NUL": SIZE + b"\x00",
    "over 64 bits": b"1" + b"0" * 16,
    "wrapping at 64 bits": b"1%016x" % len(BODY),
    "wrapping at 32 bits": b"1%08x" % len(BODY),
    "all that fits": b"f" * 16,
    "one too short": b"%x" % (len(BODY) - 1),
    "one too long": b"%x" % (len(BODY) + 1),
    "an extension without a name": SIZE + b";",
    "an extension behind a blank": SIZE + b" ;a=b",
    "an extension with a bare LF": SIZE + b";a\n",
    "an extension with a bare CR": SIZE + b";a\rb",
    "an extension with a NUL": SIZE + b";a\x00",
    "an extension with a line end in quotes": SIZE + b';a="\r\n',
}
"""In place of the size of a chunk."""

CHUNK_ENDS: Mapping[str, bytes] = {
    "no empty line": b"0\r\n",
    "bare LF": b"0\n\n",
    "CRLF and a bare LF": b"0\r\n\n",
    "bare CR": b"0\r\r",
    "a trailer that tells a length": b"0\r\nContent-Length: 5\r\n\r\n",
    "a trailer that tells a coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer on a folded line": b"0\r\nX: y\r\n z\r\n\r\n",
    "a trailer with a bare LF": b"0\r\nX: y\n\r\n",
    "a trailer with a NUL": b"0\r\nX\x00: y\r\n\r\n",
    "a trailer that is a request line": b"0\r\nPOST /after HTTP/1.1\r\n\r\n",
}
"""In place of the last chunk and what follows it."""


def doubtful_chunks() -> Iterator[Case]:
    """Chunks that not every reader takes for the same."""
    begin = head(CHUNKED)
    for name, size in CHUNK_SIZES.items():
        yield closed(f"chunk size: {name}", begin + chunks(size) + STOWAWAY)
    for name, end in CHUNK_ENDS.items():
        yield closed(f"last chunk: {name}", begin + chunks(end=end) + STOWAWAY)
    yield closed("chunk line ends with a bare LF", begin + chunks(line=b"\n") + STOWAWAY)
    yield closed("chunk line ends with a bare CR", begin + chunks(line=b"\r") + STOWAWAY)
    yield closed("no line end behind a chunk", begin + chunks(after=b"") + STOWAWAY)
    yield closed("something else behind a chunk", begin + chunks(after=b"XX") + STOWAWAY)
    yield closed("a bare LF behind a chunk", begin + chunks(after=b"\n") + STOWAWAY)
    yield closed("stowaway in place of a chunk", begin + STOWAWAY)
    yield closed("a body that is chunked before its head is over", head(CHUNKED)[:-2] + chunks() + STOWAWAY)


# --- lines and names

BROKEN_LINES: Mapping[str, bytes] = {
    "folded": b"X: a\r\n b",
    "folded with a tab": b"X: a\r\n\tb",
    "bare LF": b"X: a\nY: b",
    "bare CR": b"X: a\rb",
    "CR CR LF": b"X: a\r",
    "NUL in a name": b"X\x00: y",
    "NUL in a value": b"X: y\x00z",
    "DEL in a value": b"X: y\x7fz",
    "control character in a value": b"X: y\x01z",
    "escape character in a value": b"X: \x1b[31m",
    "empty name": b": y",
    "no colon": b"XY",
    "space in a name": b"X Y: z",
    "space before the colon": b"X : z",
    "brackets in a name": b"X(Y): z",
    "quotes in a name": b'X"Y": z',
    "letters that are not ASCII in a name": "Ä: z".encode(),
    "a request line": b"GET /stowaway HTTP/1.1",
}

START_LINES: Mapping[str, bytes] = {
    "tab between method and target": b"POST\t/push/v1/notify HTTP/1.1",
    "space in the target": b"POST /push/v1/no tify HTTP/1.1",
    "space behind the version": b"POST /push/v1/notify HTTP/1.1 ",
    "space before the method": b" POST /push/v1/notify HTTP/1.1",
    "NUL before the method": b"\x00POST /push/v1/notify HTTP/1.1",
    "NUL in the target": b"POST /push/v1/notify\x00 HTTP/1.1",
    "control character in the target": b"POST /push/v1/notify\x01 HTTP/1.1",
    "DEL in the query": b"POST /push/v1/notify?\x7f HTTP/1.1",
    "letters that are not ASCII in the target": "POST /push/v1/notifyé HTTP/1.1".encode(),
    "bare CR in the target": b"POST /push/v1/notify\rX HTTP/1.1",
    "no target": b"POST HTTP/1.1",
    "no target, two spaces": b"POST  HTTP/1.1",
    "no slash": b"POST push/v1/notify HTTP/1.1",
    "backslashes": b"POST \\push\\v1\\notify HTTP/1.1",
    "two request lines in one": b"POST /push/v1/notify HTTP/1.1 POST /stowaway HTTP/1.1",
    "HTTP/1.2": b"POST /push/v1/notify HTTP/1.2",
    "HTTP/1.10": b"POST /push/v1/notify HTTP/1.10",
    "HTTP/01.1": b"POST /push/v1/notify HTTP/01.1",
    "HTTP/1": b"POST /push/v1/notify HTTP/1",
    "HTTP/2": b"POST /push/v1/notify HTTP/2",
    "HTTP/3.0": b"POST /push/v1/notify HTTP/3.0",
    "HTTP/9.9": b"POST /push/v1/notify HTTP/9.9",
    "http/1.1": b"POST /push/v1/notify http/1.1",
    "HTTPS/1.1": b"POST /push/v1/notify HTTPS/1.1",
    "HTTP 1.1": b"POST /push/v1/notify HTTP 1.1",
    "HTTP/1.1;": b"POST /push/v1/notify HTTP/1.1;",
    "method in lower case": b"post /push/v1/notify HTTP/1.1",
    "method that nobody knows": b"BREW /push/v1/notify HTTP/1.1",
    "method that goes on": b"POSTX /push/v1/notify HTTP/1.1",
    "method that stops early": b"POS /push/v1/notify HTTP/1.1",
    "authority in place of a path": b"POST example.org:443 HTTP/1.1",
    "absolute target without a path or port": b"POST http:// HTTP/1.1",
    "absolute target of another scheme": b"POST file:///push/v1/notify HTTP/1.1",
    "absolute target with a login": b"POST http://a@x/push/v1/notify HTTP/1.1",
    "absolute target of a host in quotes": b'POST http://"x"/push/v1/notify HTTP/1.1',
    "absolute target with a port out of range": b"POST http://x:99999/push/v1/notify HTTP/1.1",
    "script in place of a target": b"POST javascript:alert(1) HTTP/1.1",
}


def broken_lines() -> Iterator[Case]:
    """Heads that are not HTTP/1.1 and 1.0."""
    for name, line in BROKEN_LINES.items():
        yield closed(f"header: {name}", head(line, length()) + BODY + STOWAWAY)
    for name, line in START_LINES.items():
        yield closed(f"start line: {name}", head(length(), start=line) + BODY + STOWAWAY)
    yield closed("the first header begins with a blank", head(length(), host=b" Host: x") + BODY + STOWAWAY)
    yield closed("all lines end with a bare LF", head(length()).replace(b"\r\n", b"\n") + BODY + STOWAWAY)
    yield closed("the head ends with a bare LF", head(length())[:-2] + b"\n" + BODY + STOWAWAY)
    yield closed("the head ends with LF CR LF", head(length())[:-4] + b"\n\r\n" + BODY + STOWAWAY)
    yield closed("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)) + STOWAWAY)
    yield closed("TLS", bytes.fromhex("16030100f1010000ed0303") + b"\r\n\r\n" + STOWAWAY)
    yield closed("PROXY line", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + head(length()) + BODY + STOWAWAY)
    yield closed("an HTTP answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + STOWAWAY)
    yield closed("HTTP/0.9 with a body", b"POST /push/v1/notify\r\n\r\n" + STOWAWAY, 400)


def sound() -> Iterator[Case]:
    """What must be understood, by everybody alike, and what follows it too."""
    begin = head(CHUNKED)
    yield taken("a length", head(length()) + BODY)
    yield taken("length with zeros before", head(b"Content-Length: 000%d" % len(BODY)) + BODY)
    yield taken("length with blanks around", head(b"Content-Length:\t %d \t" % len(BODY)) + BODY)
    yield taken("length in capitals", head(b"CONTENT-LENGTH: %d" % len(BODY)) + BODY)
    yield taken("one chunk", begin + chunks())
    yield taken("coding in capitals, behind a tab", head(b"TRANSFER-ENCODING:\tCHUNKED") + chunks())
    yield taken("many chunks", begin + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + LAST)
    yield taken("chunk size in capitals, with zeros before", begin + chunks(b"000" + SIZE.upper()))
    yield taken("chunk extension", begin + chunks(SIZE + b";a=b"))
    yield taken("chunk extension in quotes", begin + chunks(SIZE + b';a="b;c"'))
    yield taken("long chunk extension", begin + chunks(SIZE + b";" + b"a" * 20_000))
    yield taken("extension of the last chunk", begin + chunks(end=b"0;a=b\r\n\r\n"))
    yield taken("last chunk of three zeros", begin + chunks(end=b"000\r\n\r\n"))
    yield taken("trailer", begin + chunks(end=b"0\r\nX-Checksum: y\r\n\r\n"))
    yield taken("trailer that would be a caller", begin + chunks(end=b"0\r\nX-SSL-Client-Verify: SUCCESS\r\n\r\n"))
    yield taken("a stowaway that is text", head(length(STOWAWAY)) + STOWAWAY, 400)
    yield taken("a stowaway that is a chunk", begin + b"%x\r\n%b\r\n0\r\n\r\n" % (len(STOWAWAY), STOWAWAY), 400)
    yield taken("no body", head(b"Content-Length: 0"), 400)
    yield taken("empty lines before", b"\r\n\r\n" + head(length()) + BODY)
    yield taken("letters that are not ASCII in a value", head(b"X: \xff\xc3\xa9", length()) + BODY)
    yield taken("an empty value", head(b"X:", length()) + BODY)
    yield taken("absolute target", head(length(), start=b"POST http://x/push/v1/notify HTTP/1.1") + BODY)
    yield taken(
        "absolute target of another host", head(length(), start=b"POST https://y/push/v1/notify HTTP/1.1") + BODY
    )
    yield taken("absolute target in capitals", head(length(), start=b"POST HTTP://X:80/push/v1/notify HTTP/1.1") + BODY)
    yield taken("absolute target with a query", head(length(), start=b"POST http://x/push/v1/notify?a HTTP/1.1") + BODY)
    yield taken("absolute target without a path", head(start=b"GET http://x HTTP/1.1"), 404)
    yield taken("absolute target with a query and no path", head(start=b"GET http://x?y HTTP/1.1"), 404)
    yield taken("asterisk", head(start=b"OPTIONS * HTTP/1.1"), 404)
    yield taken("asterisk of another method", head(b"Content-Length: 0", start=b"POST * HTTP/1.1"), 404)
    yield closed("the last request", head(b"Connection: close", length()) + BODY + STOWAWAY, 200)
    for wanted in (b"close, te", b"CLOSE", b"keep-alive, close"):
        yield closed(f"Connection: {wanted!r}", head(b"Connection: " + wanted, length()) + BODY + STOWAWAY, 200)
    older = head(length(), start=b"POST /push/v1/notify HTTP/1.0")
    yield closed("HTTP/1.0", older + BODY + STOWAWAY, 200)
    yield closed("HTTP/1.0 that would stay", older[:-2] + b"Connection: keep-alive\r\n\r\n" + BODY + STOWAWAY, 200)
    yield closed("HTTP/1.0 in chunks", head(CHUNKED, start=b"POST /push/v1/notify HTTP/1.0") + chunks() + STOWAWAY, 200)
    yield closed("HTTP/1.0 without a length", head(start=b"POST /push/v1/notify HTTP/1.0") + BODY + STOWAWAY)
