"""Our own HTTP/2 client connection (RFC 9113), purpose-built for many small POSTs to one host. Knows nothing of push.

Target          host, port and trust of the peer, with the Proxy on the way to it
encode_headers  a header block without any shared state (RFC 7541: static table and literals only)
Connection      one TLS connection: frames, flow control, streams, PING, GOAWAY, deadlines
Pool            keeps connections to a target: opens more when streams run out, replaces the dying and the mute
Call            a request whose end is told to it, for `Pool.send`
Response        status, headers (decoded when asked for), body
Limits          how much a connection takes from its peer, and how long it waits
"""

from pushgate.http2.connection import Connection
from pushgate.http2.headers import Response, encode_headers
from pushgate.http2.limits import Limits
from pushgate.http2.pool import Pool
from pushgate.http2.queue import Call
from pushgate.http2.target import Proxy, Target

__all__ = ["Call", "Connection", "Limits", "Pool", "Proxy", "Response", "Target", "encode_headers"]
