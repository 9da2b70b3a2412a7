"""The OpenAPI document as a page to read: one HTML file that loads nothing and runs nothing.

Everything that comes from the document is escaped. Of Markdown, descriptions may use paragraphs, lists with `-`,
`code` and **strong**.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pushgate.openapi.style import STYLE

Json = Mapping[str, Any]

LONGEST_EXAMPLE_TEXT = 60
"""A longer text in an example is cut: a ciphertext is no pleasure to read."""
LONGEST_EXAMPLE_LINE = 88


def render(document: Json) -> str:
    """The page for a document as `openapi.document` makes it."""
    info = document["info"]
    root = document["servers"][0]["url"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(info["title"])
    parts = [
        f"<header><h1>{title}</h1><p class=sub>{escape(info['summary'])} · version {escape(info['version'])} · ",
        f"<code>{escape(root)}</code></p></header>",
        _nav(operations),
        f"<main><section id=about>{_prose(info['description'])}</section>",
        *(_endpoint(document, root, *operation) for operation in operations),
        _common_answers(document),
        f"<section id=caller><h2>Who may call</h2>{_schemes(document)}</section>",
        f"<section id=bodies><h2>Bodies</h2>{_bodies(document)}</section></main>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head>\n'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _nav(operations: Iterable[tuple[str, str, Json]]) -> str:
    links = [("about", "In short"), *((operation["operationId"], path) for _, path, operation in operations)]
    links += [("answers", "What each answer makes you do"), ("caller", "Who may call"), ("bodies", "Bodies")]
    return "<nav>" + "".join(f'<a href="#{escape(to)}">{escape(text)}</a>' for to, text in links) + "</nav>"


# --- endpoints --------------------------------------------------------------------------------------------------


def _endpoint(document: Json, root: str, method: str, path: str, operation: Json) -> str:
    address = escape(f"{root}{path}").replace("/", "/<wbr>")
    parts = [
        f'<section id="{escape(operation["operationId"])}">',
        f'<h2><span class="method {method.lower()}">{method}</span><code>{address}</code></h2>',
        f"<p class=lead>{_inline(operation['summary'])}</p>{_prose(operation.get('description', ''))}",
    ]
    if body := operation.get("requestBody"):
        content = body["content"]["application/json"]
        parts.append(f"<h3>Request</h3>{_fields(document, content['schema'])}{_examples(content)}")
        parts.append(_curl(f"{root}{path}"))
        own = {status: answer for status, answer in operation["responses"].items() if "$ref" not in answer}
        parts.append(f"<h3>Answers</h3>{_answers(own)}<p>And <a href='#answers'>what all endpoints answer</a>.</p>")
        parts += (_examples(answer["content"]["application/json"], before=status) for status, answer in own.items())
    return "".join(parts) + "</section>"


def _curl(path: str) -> str:
    command = (
        "curl --cert client.pem --key client.key \\\n"
        "  --header 'Content-Type: application/json' --data @request.json \\\n"
        f"  https://gateway.example.org{path}"
    )
    return f"<figure><figcaption>With curl</figcaption><pre><code>{escape(command)}</code></pre></figure>"


def _examples(content: Json, *, before: str = "") -> str:
    """The examples of a body, each under its summary."""
    figures = []
    for example in content.get("examples", {}).values():
        caption = f"{before}: {example['summary']}" if before else example["summary"]
        text = _laid_out(_shortened(example["value"]))
        figures.append(
            f"<figure><figcaption>{escape(caption)}</figcaption><pre><code>{escape(text)}</code></pre></figure>"
        )
    return "".join(figures)


def _shortened(value: object) -> object:
    match value:
        case str() if len(value) > LONGEST_EXAMPLE_TEXT:
            return f"{value[:24]}… ({len(value)} characters)"
        case dict():
            return {name: _shortened(each) for name, each in value.items()}
        case list():
            return [_shortened(each) for each in value]
    return value


def _laid_out(value: object, margin: str = "") -> str:
    """JSON with whatever fits on a line on one line."""
    line = json.dumps(value, ensure_ascii=False)
    inner = margin + "  "
    if len(margin) + len(line) <= LONGEST_EXAMPLE_LINE or not isinstance(value, dict | list):
        return line
    if isinstance(value, dict):
        fields = [f"{inner}{json.dumps(name)}: {_laid_out(each, inner)}" for name, each in value.items()]
        return "{\n" + ",\n".join(fields) + f"\n{margin}}}"
    return "[\n" + ",\n".join(f"{inner}{_laid_out(each, inner)}" for each in value) + f"\n{margin}]"


# --- answers ----------------------------------------------------------------------------------------------------


def _common_answers(document: Json) -> str:
    """The answers that several endpoints share, by status."""
    named = document["components"]["responses"]
    found: dict[str, Json] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if "$ref" in answer:
                    found[status] = named[answer["$ref"].rpartition("/")[2]]
    text = (
        "200, 400 and 413 stand with each endpoint; these all of them have. Decide by the status and by "
        "<code>rejected</code>; <code>error</code> is for people and logs."
    )
    examples = (_examples(found[status]["content"]["application/json"], before=status) for status in sorted(found))
    return (
        f"<section id=answers><h2>What each answer makes you do</h2><p>{text}</p>"
        f"{_answers(dict(sorted(found.items())))}{''.join(examples)}</section>"
    )


def _answers(answers: Mapping[str, Json]) -> str:
    rows = []
    for status, answer in answers.items():
        when = _inline(answer["description"])
        if headers := answer.get("headers"):
            when += f" <span class=kind>Carries {', '.join(f'<code>{escape(name)}</code>' for name in headers)}.</span>"
        kinds = _kind(answer["content"]["application/json"]["schema"])
        rows.append(
            (f"<span class=s{escape(status[:1])}>{escape(status)}</span>", when, _inline(answer["x-do"]), kinds)
        )
    return _table(("Status", "When", "Do", "Body"), rows)


def _schemes(document: Json) -> str:
    return "".join(_prose(scheme["description"]) for scheme in document["components"]["securitySchemes"].values())


# --- bodies -----------------------------------------------------------------------------------------------------


def _bodies(document: Json) -> str:
    """Every named schema but the requests, which stand with their endpoints."""
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    shown = [body["content"]["application/json"]["schema"] for each in operations if (body := each.get("requestBody"))]
    parts = []
    for name, schema in document["components"]["schemas"].items():
        if {"$ref": f"#/components/schemas/{name}"} in shown:
            continue
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3>{_prose(schema.get("description", ""))}')
        if "properties" in schema:
            parts.append(_fields(document, schema))
        else:
            parts.append(f"<p class=kind>{_kind(schema)}</p>")
    return "".join(parts)


def _fields(document: Json, schema: Json) -> str:
    """The fields of an object, those of objects within it too. Named schemas are linked to, but for the outermost."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return _table(("Field", "Kind", "Meaning"), list(_rows(document, schema, "")))


def _rows(document: Json, schema: Json, prefix: str) -> Iterator[Sequence[str]]:
    for name, field in schema["properties"].items():
        must = "" if name not in schema.get("required", ()) else " <span class=must>required</span>"
        target = document["components"]["schemas"].get(field.get("$ref", "").rpartition("/")[2], {})
        meaning = field.get("description") or target.get("description", "")
        if "default" in field or "default" in target:
            meaning += f" Missing: `{field.get('default', target.get('default'))}`."
        yield f"<code>{escape(prefix + name)}</code>{must}", _kind(field), _inline(meaning)
        inner, step = (field.get("items", {}), "[].") if field.get("type") == "array" else (field, ".")
        if "properties" in inner:
            yield from _rows(document, inner, f"{prefix}{name}{step}")


def _kind(schema: Json) -> str:
    """What a value is, in words, with links to named schemas."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "oneOf" in schema:
        return " or ".join(_kind(each) for each in schema["oneOf"])
    if "const" in schema:
        return f"always <code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(word))}</code>" for word in schema["enum"] if word is not None)
    kinds = schema.get("type", "anything")
    kind = next(each for each in ([kinds] if isinstance(kinds, str) else kinds) if each != "null")
    if kind == "array":
        items = _kind(schema["items"]).replace("object", "objects")
        return f"list of {items}{_bounds(schema, 'minItems', 'maxItems', '')}"
    return f"{escape(_WORDS.get(kind, kind))}{_bounds(schema, 'minLength', 'maxLength', ' characters')}"


_WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "object"}


def _bounds(schema: Json, least: str, most: str, unit: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if high is None:
        return ""
    if low == high:
        return f", {high}{unit}"
    return f", {low} to {high}{unit}" if low is not None else f", up to {high}{unit}"


# --- text -------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. On narrow screens a row is a block, and its cells carry their heads."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{_head(heads, n)}>{cell}</td>" for n, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _head(heads: Sequence[str], column: int) -> str:
    return f' data-head="{escape(heads[column])}"' if len(heads) > 3 and column > 1 else ""


def _prose(markdown: str) -> str:
    """Paragraphs and lists."""
    blocks = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith("- "):
            items = re.split(r"\n?^- ", block, flags=re.MULTILINE)[1:]
            blocks.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")
        elif block:
            blocks.append(f"<p>{_inline(block)}</p>")
    return "".join(blocks)


def _inline(markdown: str) -> str:
    """A line with `code` and **strong** in it."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(markdown))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html)
