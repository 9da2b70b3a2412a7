"""The reference page of the HTTP API, made from the OpenAPI document that a gateway with default settings serves.

`python -m tests.http_reference > docs/reference/http.md` writes it anew.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pushgate import openapi, wire
from pushgate.config import Settings

Json = Mapping[str, Any]

WIDTH_OF_A_LINE = 120
WIDTH_OF_A_TEXT = 60
"""Longer texts of an example are cut: a ciphertext has 1404 characters."""
_SETTINGS = Settings()
DOCUMENT: Json = openapi.document(
    base_path="",
    max_request_kb=_SETTINGS.api.max_request_kb,
    max_notification_kb=_SETTINGS.api.max_notification_kb,
    max_age_s=_SETTINGS.spool.max_age_s,
    dedup_window_s=_SETTINGS.dedup.window_s,
    remember_s=_SETTINGS.rejections.remember_s,
)
ROOT = DOCUMENT["servers"][0]["url"]
ENDPOINTS: Mapping[str, Json] = {path: ways["post"] for path, ways in DOCUMENT["paths"].items() if "post" in ways}

_HEAD = """\
# HTTP API

Reference, made from the OpenAPI document of a gateway with default settings. The running gateway serves its own, with
its own limits: `{root}/openapi.json` for machines, `{root}/docs` to read.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()).rstrip("\n") + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.format(root=ROOT)
    yield _wrapped(DOCUMENT["info"]["description"]) + "\n"
    yield "## Who may call\n"
    said = DOCUMENT["components"]["securitySchemes"]["mutualTLS"]["description"]
    yield _wrapped(f"{said} See [who may call](../how-to/who-may-call.md).") + "\n"
    yield "## Limits\n"
    yield from _limits()
    for path, operation in ENDPOINTS.items():
        yield from _endpoint(path, operation)
    yield "## Parts\n"
    for name in ("PlainNotification", "SealedNotification", "Device", "Counts", "BatchAnswer", "Result"):
        yield from _part(name)
    yield "## Every status\n"
    yield "What a caller should do stands beside it. Every answer carries `X-Request-Id`.\n"
    yield from _statuses()
    yield ""
    yield "## Texts of a 400 or 413\n"
    yield "Of several faults in a batch the first of this table is told. `details` never repeats what was sent.\n"
    yield from _errors()


def _wrapped(text: str) -> str:
    """The same in lines that are not too long; items of a list stay items."""
    lines = text.splitlines()
    return "\n".join(
        textwrap.fill(
            line,
            width=WIDTH_OF_A_LINE,
            subsequent_indent="  " if line.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )


def _limits() -> Iterator[str]:
    api = _SETTINGS.api
    yield "| what | how much | set by |"
    yield "|---|---|---|"
    yield f"| notifications in a batch | 1 to {wire.MAX_BATCH_SIZE} | fixed |"
    yield f"| a request | {api.max_request_kb} KB | `api.max_request_kb` |"
    yield f"| a notification | {api.max_notification_kb} KB | `api.max_notification_kb` |"
    yield f"| levels of nesting | {wire.MAX_NESTING} | fixed |"
    yield f"| time for a body to arrive | {api.request_timeout_s:g} s | `api.request_timeout_s` |"
    yield "| requests a second of a caller | no limit | `rate_per_s` of its `[[clients]]` |\n"
    yield "A KB is 1024 bytes. Keys are described in [configuration](configuration.md).\n"


def _endpoint(path: str, operation: Json) -> Iterator[str]:
    yield f"## `POST {ROOT}{path}`\n"
    yield _wrapped(f"{operation['summary']}. {operation['description']}") + "\n"
    yield from _examples(operation["requestBody"])
    for status in ("200", "400"):
        answer = operation["responses"][status]
        yield _wrapped(f"**{status}**: {answer['description']} *{answer['x-do']}*") + "\n"
        yield from _examples(answer)


def _examples(body: Json) -> Iterator[str]:
    for example in body["content"]["application/json"]["examples"].values():
        yield f"{example['summary']}:\n"
        yield _as_block(example["value"])


def _as_block(value: Any) -> str:
    return f"```json\n{json.dumps(_cut(value), indent=2, ensure_ascii=False)}\n```\n"


def _cut(value: Any) -> Any:
    match value:
        case dict():
            return {name: _cut(inner) for name, inner in value.items()}
        case list():
            return [_cut(inner) for inner in value]
        case str() if len(value) > WIDTH_OF_A_TEXT:
            return f"{value[:WIDTH_OF_A_TEXT]}…"
    return value


def _part(name: str) -> Iterator[str]:
    schema = DOCUMENT["components"]["schemas"][name]
    yield f"### `{name}`\n"
    yield _wrapped(schema.get("description", "")) + "\n"
    yield "| field | type | |"
    yield "|---|---|---|"
    required = schema.get("required", ())
    for field, each in schema["properties"].items():
        kind, text = _kind_and_text(each)
        must = "**required**" if field in required and not name.endswith(("Answer", "Result")) else ""
        yield f"| `{field}` | {kind} | {'. '.join(filter(None, (must, text)))} |"
    yield ""


def _kind_and_text(schema: Json) -> tuple[str, str]:
    """Its type in words, and what it is for. A reference to a part is a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        whole = DOCUMENT["components"]["schemas"][name]
        if whole.get("type") == "object" or "properties" in whole:
            return f"[{name}](#{name.lower()})" if name != "Summary" else name, ""
        return _kind_and_text(whole)
    text = schema.get("description", "")
    if "enum" in schema:
        return " or ".join(f"`{word}`" for word in schema["enum"] if word is not None), text
    kinds = schema.get("type", "object")
    kind = next(each for each in ([kinds] if isinstance(kinds, str) else kinds) if each != "null")
    if kind == "array":
        return f"list of {_kind_and_text(schema['items'])[0]}", text
    if kind == "object" and "properties" in schema:
        return "object: " + ", ".join(f"`{field}`" for field in schema["properties"]), text
    return kind, text


def _statuses() -> Iterator[str]:
    yield "| status | meaning | what to do |"
    yield "|---|---|---|"
    shared = DOCUMENT["components"]["responses"]
    seen: dict[str, tuple[str, str]] = {}
    for operation in ENDPOINTS.values():
        for status, answer in operation["responses"].items():
            whole = shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
            seen.setdefault(status, (whole["description"], whole["x-do"]))
    for status, (description, do) in sorted(seen.items()):
        if status in ("200", "400"):  # these differ
            description, do = "judged" if status == "200" else "not valid, nothing was taken", "see the endpoint"
        yield f"| {status} | {description} | {do} |"


def _errors() -> Iterator[str]:
    yield "| status | `error` | `details` |"
    yield "|---|---|---|"
    kinds = {
        "InvalidFormat": 400,
        "BatchTooLong": 400,
        "DuplicateIds": 400,
        "NotificationTooLarge": 400,
        "NotifyTooLarge": 413,
        "BatchTooLarge": 413,
    }
    for kind, status in kinds.items():
        properties = DOCUMENT["components"]["schemas"][kind]["properties"]
        details = ", ".join(f"`{name}`" for name in properties["details"]["properties"])
        yield f"| {status} | `{properties['error']['const']}` | {details} |"


if __name__ == "__main__":
    print(page(), end="")
