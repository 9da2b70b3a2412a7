"""The answers of our OpenAPI document: each with its body and, as `x-do`, what a caller should do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pushgate import server
from pushgate.openapi.schemas import ref

Json = dict[str, Any]

_NAMES = {
    "401": "Unauthenticated",
    "404": "NotFound",
    "405": "WrongMethod",
    "415": "WrongMediaType",
    "429": "TooMany",
    "500": "Unexpected",
    "503": "Unavailable",
}


def answer(description: str, do: str, schema: Json, **examples: tuple[str, Json]) -> Json:
    """An answer with a JSON body; examples by name, each with its summary."""
    content: Json = {"schema": schema}
    if examples:
        content["examples"] = examples_of(examples)
    return {"description": description, "x-do": do, "content": {"application/json": content}}


def examples_of(examples: Mapping[str, tuple[str, Json]]) -> Json:
    """Examples by name, each with its summary, as OpenAPI has them."""
    return {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}


def too_large(description: str, schema: str) -> Json:
    """The 413 of an endpoint."""
    return answer(description, "Send less at once: `details` says how much may be.", ref(schema))


def shared(status: str) -> Json:
    """A reference to the answer with this status that many endpoints have."""
    return {"$ref": f"#/components/responses/{_NAMES[status]}"}


def shared_responses(*, knows_repeats: bool) -> Json:
    """The answers that many endpoints have, by name."""
    twice = "the same `event_id` keeps it from being sent twice" if knows_repeats else "it would be sent twice"
    wait = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    said = {
        "401": (
            "There was no client certificate, or none that is known here; or you may only send sealed notifications.",
            "Show the certificate that was agreed with the operator. Until then everything is answered like this.",
            {"error": server.UNAUTHENTICATED},
        ),
        "404": ("There is nothing at this path.", "Check the address: it ends in `/push/v1/`.", None),
        "405": ("The path does not take this method.", "Use one that `Allow` names.", None),
        "415": (
            "The body is not said to be JSON, or it is compressed.",
            "Send `Content-Type: application/json` and no `Content-Encoding`.",
            None,
        ),
        "429": (
            "You send more requests a second than the operator lets you. Nothing was taken. Others are not held up.",
            "Wait as long as `Retry-After` says, then send it again. A batch counts as one request, so send batches.",
            {"error": server.TOO_OFTEN},
        ),
        "500": (
            "A fault of the gateway. Perhaps nothing was taken.",
            f"Send it again a little later. Had it been taken, {twice}.",
            {"error": server.UNEXPECTED},
        ),
        "503": (
            "The gateway cannot take anything now: its disk is full, or it is being stopped. Nothing was taken.",
            "Wait as long as `Retry-After` says, then send it again. No single notification is ever the cause.",
            {"error": server.OVERLOADED},
        ),
    }
    responses = {}
    for status, (description, do, example) in said.items():
        examples = {"example": ("The answer", example)} if example else {}
        responses[_NAMES[status]] = answer(description, do, ref("Error"), **examples)
    responses[_NAMES["405"]]["headers"] = {"Allow": {"$ref": "#/components/headers/Allow"}}
    responses[_NAMES["429"]]["headers"] = responses[_NAMES["503"]]["headers"] = wait
    return responses
