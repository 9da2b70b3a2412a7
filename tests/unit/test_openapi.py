"""Our OpenAPI document says what `wire` does, and its page shows all of it and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from pushgate import openapi, server, wire
from pushgate.config import Settings
from pushgate.errors import RequestError
from pushgate.openapi.style import STYLE

DOCUMENT = openapi.document(base_path="/tenant", max_request_kb=1024, max_notification_kb=64)
SCHEMAS = DOCUMENT["components"]["schemas"]
LIMITS = wire.Limits(1024, 64)
ENDPOINTS = {
    "/notify": ("NotifyRequest", wire.decode_notify),
    "/notify/batch": ("BatchRequest", wire.decode_batch),
    "/notifyEncrypted/batch": ("SealedBatchRequest", wire.decode_encrypted_batch),
}


def every(value: object) -> Iterator[Mapping[str, Any]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from every(each)
    elif isinstance(value, list):
        for each in value:
            yield from every(each)


def resolved(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def validator(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": SCHEMAS}})


def answers(path: str) -> dict[str, Mapping[str, Any]]:
    found = DOCUMENT["paths"][path]["post"]["responses"]
    return {status: resolved(each["$ref"]) if "$ref" in each else each for status, each in found.items()}


# --- the document -----------------------------------------------------------------------------------------------


def test_it_is_valid_openapi_and_tools_can_load_it() -> None:
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []
    loaded = schemathesis.openapi.from_dict(json.loads(openapi.encode(DOCUMENT)))
    assert [each.ok().path for each in loaded.get_all_operations() if isinstance(each, Ok)] == list(DOCUMENT["paths"])


def said(**times: float) -> str:
    return json.dumps(openapi.document(base_path="", max_request_kb=1024, max_notification_kb=64, **times))


def test_its_times_are_those_of_the_configuration_and_by_default_the_defaults() -> None:
    defaults = Settings()
    text = said(
        max_age_s=defaults.spool.max_age_s,
        dedup_window_s=defaults.dedup.window_s,
        remember_s=defaults.rejections.remember_s,
    )
    assert text == said()
    assert all(words in text for words in ("for 24 hours at most", "next 30 days", "within 10 minutes"))
    text = said(max_age_s=7200, dedup_window_s=90, remember_s=1)
    assert all(words in text for words in ("for 2 hours at most", "next 1 second,", "within 90 seconds"))


def test_where_repeats_are_not_looked_for_no_word_says_that_they_are() -> None:
    words = ("A repeat", "for a repeat", "keeps it from being sent twice")
    assert [word in said(dedup_window_s=0) for word in words] == [False, False, False]
    assert [word in said() for word in words] == [True, True, True]
    assert "Repeats are not looked for" in said(dedup_window_s=0)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_429_says_that_nothing_was_taken_and_when_to_come_back(path: str) -> None:
    told = answers(path)["429"]
    assert "Nothing was taken" in told["description"]
    assert "`Retry-After`" in told["x-do"]
    (example,) = told["content"]["application/json"]["examples"].values()
    assert example["value"] == {"error": server.TOO_OFTEN}


def test_every_schema_is_valid_and_every_part_is_used() -> None:
    for schema in SCHEMAS.values():
        jsonschema_rs.meta.validate(schema)
    references = {each["$ref"] for each in every(DOCUMENT) if "$ref" in each}
    for reference in references:
        assert resolved(reference)
    parts = {f"#/components/{kind}/{name}" for kind, of in DOCUMENT["components"].items() for name in of}
    assert references == {part for part in parts if "securitySchemes" not in part}


def test_the_caller_proves_who_it_is_by_a_certificate() -> None:
    (scheme,) = DOCUMENT["components"]["securitySchemes"].values()
    assert scheme["type"] == "mutualTLS"
    assert DOCUMENT["security"] == [{"mutualTLS": []}]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_status_that_can_come_is_told_with_what_to_do(path: str) -> None:
    found = answers(path)
    assert list(found) == ["200", "400", "401", "404", "405", "413", "415", "429", "500", "503"]
    assert all(each["x-do"] and each["description"] for each in found.values())
    assert {status: list(each["headers"]) for status, each in found.items() if "headers" in each} == {
        "405": ["Allow"],
        "429": ["Retry-After"],
        "503": ["Retry-After"],
    }


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_example_is_what_its_schema_says(path: str) -> None:
    request = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    name, decode = ENDPOINTS[path]
    assert request["schema"] == {"$ref": f"#/components/schemas/{name}"}
    for example in request["examples"].values():
        validator(request["schema"]).validate(example["value"])
        decode(json.dumps(example["value"]).encode(), LIMITS)
    for answer in answers(path).values():
        content = answer["content"]["application/json"]
        for example in content.get("examples", {}).values():
            validator(content["schema"]).validate(example["value"])


def test_the_limits_are_those_of_this_gateway() -> None:
    other = openapi.document(base_path="", max_request_kb=300, max_notification_kb=5)
    assert other["servers"][0]["url"] == "/push/v1"
    details = other["components"]["schemas"]["NotifyTooLarge"]["properties"]["details"]["properties"]
    assert details["max_request_size_kb"]["const"] == 300
    assert details["max_notification_size_kb"]["const"] == 5


# --- what it says and what wire does ----------------------------------------------------------------------------

SEALED = {
    "device": {"app_id": "a", "pushkey": "p"},
    "ciphertext": "ü" * 1404,
    "time_message_encrypted": "",
    "key_identifier": "",
}
PLAIN: dict[str, Any] = {"devices": [{"app_id": "a", "pushkey": "p"}]}

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1.5, "", "high", "low", "HIGH", [], {}, [{}], -(2**63), 2**63 - 1, 2**63, -(2**63) - 1]
)
FREE = st.dictionaries(st.sampled_from(["a", "format"]), ODD.filter(lambda value: value not in (2**63, -(2**63) - 1)))
DEVICE = st.fixed_dictionaries(
    {},
    optional={
        "app_id": st.just("a") | ODD,
        "pushkey": st.just("p") | ODD,
        "pushkey_ts": st.integers() | ODD,
        "data": FREE | ODD,
        "tweaks": FREE | ODD,
        "unknown": ODD,
    },
)
VALID_DEVICE = DEVICE.map(lambda device: {**device, "app_id": "a", "pushkey": "p"})
COUNTS = st.fixed_dictionaries({}, optional={"unread": st.integers() | ODD, "missed_calls": ODD, "x": ODD})
TEXT_FIELDS = ["event_id", "room_id", "type", "sender", "sender_display_name", "room_name", "room_alias"]
PLAIN_NOTIFICATION = st.fixed_dictionaries(
    {"devices": st.lists(VALID_DEVICE | DEVICE, max_size=2) | ODD},
    optional={name: st.just("x") | ODD for name in TEXT_FIELDS}
    | {"user_is_target": ODD, "prio": ODD, "content": FREE | ODD, "counts": COUNTS | ODD, "unknown": ODD},
)
SEALED_NOTIFICATION = st.fixed_dictionaries(
    {
        "device": VALID_DEVICE | DEVICE | ODD,
        "ciphertext": st.sampled_from(["x" * n for n in (1404, 1404, 1403, 1405)]) | ODD,
    },
    optional={name: st.just("x") | ODD for name in ("time_message_encrypted", "key_identifier", "identifier")}
    | {"prio": ODD, "counts": COUNTS | ODD},
)


def batch_of(notification: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Batches with ids that do not repeat: that rule is not for a schema."""
    items = st.lists(notification, max_size=3).map(
        lambda each: [{"id": "i" * (64 - n), "notification": one} for n, one in enumerate(each)]
    )
    odd_item = st.fixed_dictionaries({}, optional={"id": st.just("i" * 65) | ODD, "notification": notification})
    return st.fixed_dictionaries(
        {}, optional={"notifications": items | odd_item.map(lambda item: [item]) | ODD, "x": ODD}
    )


REQUESTS = {
    "/notify": st.fixed_dictionaries({}, optional={"notification": PLAIN_NOTIFICATION | ODD, "x": ODD}) | ODD,
    "/notify/batch": batch_of(PLAIN_NOTIFICATION) | ODD,
    "/notifyEncrypted/batch": batch_of(SEALED_NOTIFICATION) | ODD,
}


@pytest.mark.parametrize("path", ENDPOINTS)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_wire_takes_exactly_what_the_schema_calls_valid(path: str, data: st.DataObject) -> None:
    request = data.draw(REQUESTS[path])
    name, decode = ENDPOINTS[path]
    try:
        decode(json.dumps(request).encode(), LIMITS)
    except RequestError as refused:
        taken = False
        assert refused.error == wire.INVALID_FORMAT
    else:
        taken = True
    assert validator({"$ref": f"#/components/schemas/{name}"}).is_valid(request) is taken


@pytest.mark.parametrize("path", ["/notify/batch", "/notifyEncrypted/batch"])
@pytest.mark.parametrize(("count", "taken"), [(0, False), (1, True), (100, True), (101, False)])
def test_a_batch_has_1_to_100_items_in_the_schema_as_in_wire(path: str, count: int, taken: bool) -> None:
    notification = SEALED if "Encrypted" in path else PLAIN
    request = {"notifications": [{"id": str(n), "notification": notification} for n in range(count)]}
    name, decode = ENDPOINTS[path]
    assert validator({"$ref": f"#/components/schemas/{name}"}).is_valid(request) is taken
    try:
        assert len(decode(json.dumps(request).encode(), LIMITS)) == count and taken  # type: ignore[arg-type]  # a batch has a length
    except RequestError:
        assert not taken


REFUSED = {
    "/notify": {
        "{}": "400",
        json.dumps({"notification": {**PLAIN, "room_name": "x" * 70_000}}): "413",
    },
    "/notify/batch": {
        "[": "400",
        json.dumps({"notifications": [{"id": str(n), "notification": PLAIN} for n in range(101)]}): "400",
        json.dumps({"notifications": [{"id": "a", "notification": PLAIN}] * 2}): "400",
        json.dumps({"notifications": [{"id": "a", "notification": {**PLAIN, "room_name": "x" * 70_000}}]}): "400",
    },
    "/notifyEncrypted/batch": {
        json.dumps({"notifications": [{"id": "a", "notification": {**SEALED, "key_identifier": "x" * 70_000}}]}): "400",
    },
}


@pytest.mark.parametrize(
    ("path", "body", "status"), [(path, body, status) for path, of in REFUSED.items() for body, status in of.items()]
)
def test_what_wire_says_when_it_refuses_is_what_the_document_says(path: str, body: str, status: str) -> None:
    with pytest.raises(RequestError) as caught:
        ENDPOINTS[path][1](body.encode(), LIMITS)
    assert str(caught.value.status) == status
    said = json.loads(wire.encode_error(caught.value.error, caught.value.details))
    validator(answers(path)[status]["content"]["application/json"]["schema"]).validate(said)


def test_what_wire_answers_is_what_the_document_says() -> None:
    verdicts = [
        wire.Verdict(1),
        wire.Verdict(1, ("p",)),
        wire.Verdict(0, ("p",), "dead"),
        wire.Verdict(2, (), "left out"),
    ]
    batch = json.loads(wire.encode_batch(["a", "b", "c", "d"], verdicts))
    validator({"$ref": "#/components/schemas/BatchAnswer"}).validate(batch)
    validator({"$ref": "#/components/schemas/NotifyAnswer"}).validate(json.loads(wire.encode_notify(verdicts[1])))
    for text in (server.UNAUTHENTICATED, server.UNEXPECTED, server.OVERLOADED):
        validator({"$ref": "#/components/schemas/Error"}).validate(json.loads(wire.encode_error(text)))
        assert text in json.dumps(DOCUMENT["components"]["responses"])


# --- the page ---------------------------------------------------------------------------------------------------

VOID = {"meta", "link", "wbr"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and gathers what the page would load, link to and show."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                assert value not in self.ids, "an id twice"
                self.ids.add(value or "")
            if name == "href":
                self.links.add(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_shows_every_endpoint_field_status_and_advice() -> None:
    shown = read(openapi.render(DOCUMENT))
    flat = " ".join(shown.text.split())
    for path, methods in DOCUMENT["paths"].items():
        assert f"/tenant/push/v1{path}" in flat
        for operation in methods.values():
            assert plain(operation["summary"]) in flat
    for each in every(DOCUMENT):
        if isinstance(fields := each.get("properties"), dict):
            assert all(name in flat for name in fields)
        if "x-do" in each:
            assert plain(each["x-do"]) in flat
            assert plain(each["description"]) in flat
    assert {"light", "dark"} <= set(STYLE.replace(";", " ").replace(":", " ").replace(")", " ").split())
    assert "x" * 100 not in flat
    assert "(1404 characters)" in flat


def plain(markdown: str) -> str:
    return " ".join(markdown.replace("`", "").replace("**", "").split())


def test_every_link_of_the_page_leads_somewhere_on_it() -> None:
    shown = read(openapi.render(DOCUMENT))
    assert shown.links - {"data:,"} <= {f"#{name}" for name in shown.ids}


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = openapi.render(DOCUMENT)
    shown = read(page)
    assert shown.tags.isdisjoint({"script", "img", "iframe", "object", "embed", "form", "base", "svg"})
    assert shown.attributes.isdisjoint({"src", "srcset", "style", "action"})
    assert not any(name.startswith("on") for name in shown.attributes)
    assert "@import" not in page
    assert "url(" not in page


def spoiled(value: Any) -> Any:
    """The same with something to run in every text that is shown, but not where a word steers the page."""
    if isinstance(value, dict):
        return {
            name: each if name in {"$ref", "type", "url"} and isinstance(each, str) else spoiled(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [spoiled(each) for each in value]
    return f"{value}\"'><script>alert(1)</script>&amp;" if isinstance(value, str) else value


def test_whatever_stands_in_the_document_is_shown_and_never_run() -> None:
    page = openapi.render(spoiled(DOCUMENT))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;") > 100
    assert read(page).attributes == read(openapi.render(DOCUMENT)).attributes


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("a\nb\n\nc", "<p>a\nb</p><p>c</p>"),
        ("- a\n- b `c`", "<ul><li>a</li><li>b <code>c</code></li></ul>"),
        ("**`a` b** <i>", "<p><strong><code>a</code> b</strong> &lt;i&gt;</p>"),
        ("", ""),
    ],
)
def test_descriptions_have_paragraphs_lists_code_and_strong_words(markdown: str, html: str) -> None:
    document = json.loads(openapi.encode(DOCUMENT))
    document["info"]["description"] = markdown
    assert f"<section id=about>{html}</section>" in openapi.render(document)
