"""The API against two OpenAPI documents, with requests that schemathesis makes of them: valid ones and broken ones.

Ours is the one that the gateway serves. The official file is the oracle; where it is absent its test is skipped. Our
exceptions from it are the contract's: what it calls invalid but we take (a missing `prio`, devices that repeat), and
what it calls valid but we refuse (`/notify` to no known app; integers beyond 64 bits).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from pushgate import openapi
from tests.api import serving

OFFICIAL_VARIABLE = "PUSHGATE_OFFICIAL_OPENAPI"
OFFICIAL = Path(
    os.environ.get(OFFICIAL_VARIABLE) or Path(__file__).parents[3] / "shared" / "spec" / "push_gateway_openapi.yaml"
)
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
ALWAYS = [not_a_server_error, content_type_conformance, response_schema_conformance]

CONFIG = SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": False}}})
"""Without the phase that builds arrays of 100 whole notifications by the thousand; `test_contract` has those limits."""
ours = schemathesis.openapi.from_dict(
    openapi.document(base_path="", max_request_kb=1024, max_notification_kb=64), config=CONFIG
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of an API that runs in a thread of its own: schemathesis asks synchronously."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with serving() as api:
            ports.append(api.port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.mark.timeout(120)
@ours.include(method="POST").parametrize()
@EXAMPLES
def test_our_document_tells_what_the_api_does(case: schemathesis.Case[Any], port: int) -> None:
    response = case.call(base_url=f"http://127.0.0.1:{port}")
    case.validate_response(response, checks=[*ALWAYS, status_code_conformance, negative_data_rejection])


def _valid_by_the_file(case: schemathesis.Case[Any], body: object) -> bool:
    """Whether the official schema of this operation takes the body."""
    if not isinstance(body, dict | list | str | int | float | bool | None):
        return False  # not JSON at all
    document = yaml.safe_load(OFFICIAL.read_text())
    schema = document["paths"][case.operation.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return bool(jsonschema_rs.is_valid({**schema, "components": document["components"]}, body))


def _tamed(value: Any) -> Any:
    """The body without what we tolerate by contract: optional nulls, a missing prio, devices that repeat."""
    if isinstance(value, list):
        return [_tamed(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _tamed(each) for key, each in value.items() if each is not None}
    if isinstance(devices := kept.get("devices"), list):
        kept.setdefault("prio", "high")
        kept["devices"] = [each for n, each in enumerate(devices) if each not in devices[:n]]
    return kept


def _refused_by_contract(answer: dict[str, Any]) -> bool:
    """What the file calls valid and we refuse, each for a reason that the contract gives."""
    if answer["error"] in ("Duplicate notification IDs in batch", "Individual notification too large"):
        return True
    reason = answer["details"]["reason"]
    return (
        "unknown app_id" in reason
        or reason in ("integer beyond 64 bits", "nested deeper than 64 levels")
        or (reason.startswith("Expected `int`") and "9223372036854775" in reason)
    )


if OFFICIAL.exists():
    official = schemathesis.openapi.from_path(OFFICIAL, config=CONFIG)

    @pytest.mark.timeout(120)
    @official.parametrize()
    @EXAMPLES
    def test_the_official_file_is_kept_to(case: schemathesis.Case[Any], port: int) -> None:
        response = case.call(base_url=f"http://127.0.0.1:{port}/push/v1")
        case.validate_response(response, checks=ALWAYS)
        if response.status_code == 200:
            assert _valid_by_the_file(case, _tamed(case.body))
        elif response.status_code == 400 and _valid_by_the_file(case, case.body):
            assert _refused_by_contract(response.json())

else:

    @pytest.mark.skip(
        reason=f"the official OpenAPI file of the Push Gateway API is not at {OFFICIAL}: put it there, "
        f"or say in {OFFICIAL_VARIABLE} where it is"
    )
    def test_the_official_file_is_kept_to() -> None:
        raise AssertionError
