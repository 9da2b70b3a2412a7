"""Apple's rules for one notification, as pure functions: request in, the first fault out.

Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs". Where Apple leaves the
reason open, the choice is marked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import msgspec
from msgspec import Struct

from pushgate.emulator.apns_token import Refusal
from pushgate.emulator.exchange import Request

DEVICE_PATH = "/3/device/"
MAX_PAYLOAD_BYTES = 4096
MAX_VOIP_PAYLOAD_BYTES = 5120
MAX_COLLAPSE_ID_BYTES = 64
MAX_TOKEN_BYTES = 100
"""Apple: device tokens are of variable length, up to 100 bytes."""

TOPIC_SUFFIXES: Mapping[str, str] = {
    "location": ".location-query",
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
}
"""Push type -> what its topic adds to the bundle id."""
PUSH_TYPES = {"alert", "background", "mdm", "controls", "widgets", *TOPIC_SUFFIXES}
TOKEN_ONLY_PUSH_TYPES = {"location", "liveactivity"}

_HEX_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2})+")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_DIGITS = re.compile(r"[0-9]{1,18}")
_VISIBLE = ("alert", "badge", "sound")


class Topics(Struct, frozen=True):
    """Which topics a connection may push to."""

    allowed: Collection[str]
    """Bundle ids; a push type's suffix may follow."""
    default: str = ""
    """The topic where the header is absent: that of a certificate with one topic."""
    by_certificate: bool = False


def is_canonical_id(apns_id: str) -> bool:
    """Apple: a UUID in its canonical form, in lower case."""
    return _UUID.fullmatch(apns_id) is not None


def path_fault(request: Request) -> Refusal | None:
    """What is wrong with method, path and the token's shape."""
    path = request.path.partition("?")[0]
    if path != DEVICE_PATH.rstrip("/") and not path.startswith(DEVICE_PATH):
        return Refusal(404, "BadPath")
    if request.method != "POST":
        return Refusal(405, "MethodNotAllowed")
    token = path[len(DEVICE_PATH) :]
    if not token:
        return Refusal(400, "MissingDeviceToken")
    if "/" in token:
        return Refusal(404, "BadPath")
    if len(token) > 2 * MAX_TOKEN_BYTES or not _HEX_TOKEN.fullmatch(token):
        return Refusal(400, "BadDeviceToken")
    return None


def token_of(request: Request) -> str:
    """The device token of a request whose path is without fault."""
    return request.path.partition("?")[0].removeprefix(DEVICE_PATH)


def duplicate_fault(request: Request) -> Refusal | None:
    """Apple: one or more headers are repeated."""
    names = [name for name, _ in request.headers if name.startswith("apns-") or name == "authorization"]
    return Refusal(400, "DuplicateHeaders") if len(names) != len(set(names)) else None


def topic_fault(request: Request, topics: Topics) -> Refusal | None:
    """Whether this connection may push to this topic with this push type."""
    topic = request.value("apns-topic") or topics.default
    push_type = request.value("apns-push-type")
    if not topic:
        return Refusal(400, "MissingTopic")
    if not _TOPIC.fullmatch(topic):
        return Refusal(400, "BadTopic")
    suffix = TOPIC_SUFFIXES.get(push_type, "")
    if suffix and not topic.endswith(suffix):
        return Refusal(400, "BadTopic")  # Apple only says which suffix the topic must have
    if _bundle_id(topic, topics.allowed) not in topics.allowed:
        return Refusal(400, "BadTopic" if topics.by_certificate else "TopicDisallowed")
    if topics.by_certificate and push_type in TOKEN_ONLY_PUSH_TYPES:
        return Refusal(400, "InvalidPushType")  # Apple only says that these need a token
    return None


def _bundle_id(topic: str, allowed: Collection[str]) -> str:
    if topic in allowed:
        return topic
    suffix = next((suffix for suffix in TOPIC_SUFFIXES.values() if topic.endswith(suffix)), "")
    return topic.removesuffix(suffix)


def header_faults(request: Request) -> Iterator[Refusal]:
    """What is wrong with the apns-* headers, each by itself."""
    if any(not is_canonical_id(value) for value in request.values("apns-id")):
        yield Refusal(400, "BadMessageId")
    if any(not _DIGITS.fullmatch(value) for value in request.values("apns-expiration")):
        yield Refusal(400, "BadExpirationDate")
    if request.value("apns-priority") not in ("", "1", "5", "10"):
        yield Refusal(400, "BadPriority")
    if len(request.value("apns-collapse-id").encode("latin-1")) > MAX_COLLAPSE_ID_BYTES:
        yield Refusal(400, "BadCollapseId")
    push_type = request.value("apns-push-type")
    if push_type and push_type not in PUSH_TYPES:
        yield Refusal(400, "InvalidPushType")
    if push_type == "background" and request.value("apns-priority") != "5":
        yield Refusal(400, "BadPriority")  # Apple: other priorities are an error; absent means 10


def payload_faults(request: Request) -> Iterator[Refusal]:
    """What is wrong with the payload, and with its match to the push type."""
    push_type = request.value("apns-push-type")
    if not request.body_bytes:
        yield Refusal(400, "PayloadEmpty")
    if request.body_bytes > (MAX_VOIP_PAYLOAD_BYTES if push_type == "voip" else MAX_PAYLOAD_BYTES):
        yield Refusal(413, "PayloadTooLarge")
    payload = decode_object(request.body)
    if payload is None:
        yield Refusal(400, "PayloadEmpty")  # Apple has no reason of its own for what is no JSON dictionary
    elif not _matches(push_type, payload):
        yield Refusal(400, "InvalidPushType")  # Apple: a mismatch "may" be an error; here it is one


def _matches(push_type: str, payload: dict[str, object]) -> bool:
    aps = payload.get("aps")
    aps = aps if isinstance(aps, dict) else {}
    visible = any(key in aps for key in _VISIBLE)
    if push_type == "background":
        return not visible and aps.get("content-available") == 1
    return visible or push_type != "alert"


def decode_object(body: bytes) -> dict[str, object] | None:
    """A JSON object, or None for anything else."""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return None
