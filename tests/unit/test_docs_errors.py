"""The reference of errors has each text and each reason that the code can give, and no other."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushgate.breaker import EVIDENCE
from pushgate.config import Settings
from pushgate.outcome import Cause
from pushgate.provider import answer, apns, apns_answer, fcm, fcm_answer
from pushgate.provider.credentials import TokenFault

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
MODULES = ("server", "wire", "intake", "callers", "listener", "forwarded", "admission", "allowance")
BEHIND_A_COLON = re.compile(r"`app_id …: ([^`]+)`")


def source(name: str) -> ast.Module:
    return ast.parse((ROOT / "src" / "pushgate" / f"{name}.py").read_text())


def calls(*functions: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """Module and arguments of each call of a function or method with one of these names."""
    for name in MODULES:
        for node in ast.walk(source(name)):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in functions:
                    yield name, node.args


def texts(module: str, expression: ast.expr) -> Iterator[str]:
    """What the expression can say, "…" standing for what differs; nothing for what another call says."""
    match expression:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)  # type: ignore[misc]  # a part of a text is one
        case ast.Name(id=name):
            found = getattr(importlib.import_module(f"pushgate.{module}"), name, None)
            if isinstance(found, str):
                yield found
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner != "self" and owner != "route":
            yield str(getattr(importlib.import_module(f"pushgate.{owner}"), name))
        case ast.IfExp(body=first, orelse=other):
            yield from (*texts(module, first), *texts(module, other))


def words(row: str) -> set[str]:
    return {*re.findall(r"`([^`]+)`", row)}


def first_words(section: str) -> set[str]:
    """What stands in the first column of a section's tables."""
    rows = re.findall(r"^\| (`.*?) \|.*$(?!\n\|-)", SECTIONS[section], re.M)
    return {word for row in rows for word in words(row)}


def test_every_body_of_an_error_is_there_with_its_status() -> None:
    rows = {(int(status), text) for status, text in re.findall(r"^\| (\d{3}) \| `([^`]+)` \|", PAGE, re.M)}
    known = {
        (status.value, text)
        for module, (status, said, *_) in calls("RequestError")
        if isinstance(status, ast.Constant) and isinstance(status.value, int)
        for text in texts(module, said)
    }
    assert len(known) >= 12
    wire, server = (importlib.import_module(f"pushgate.{name}") for name in ("wire", "server"))
    known |= {(413, wire.BATCH_BODY_TOO_LARGE), (413, wire.NOTIFY_TOO_LARGE)}  # by the route
    known |= {(500, server.UNEXPECTED), (503, server.OVERLOADED)}  # where an exception is met
    ((_, (no_tunnel, _)),) = [
        (name, args) for name, args in calls("encode_error") if isinstance(args[0], ast.JoinedStr)
    ]
    known |= {(405, text) for text in texts("listener", no_tunnel)}
    assert rows == known


def test_every_reason_of_an_invalid_format_is_there() -> None:
    wire = importlib.import_module("pushgate.wire")
    said = first_words("Reasons of an invalid format")
    known = {
        text
        for module, (reason, *_) in calls("_invalid", "_cut_short")
        for text in texts(module, reason)
        if text != "…"
    }
    known |= {text for module, (reason, *_) in calls("send_400_response") for text in texts(module, reason)}
    assert len(known) >= 7
    known = {re.sub(r"`array`", "…", text) for text in known}
    known |= {"not one of the allowed words", "does not fit the schema", "not a valid HTTP request"}
    assert {text for text in known if "`" not in text} <= said
    for sample in ("Expected `int`, got `str`", "Object missing required field `id`", "Number out of range"):
        assert wire._KNOWN_REASONS.fullmatch(sample)
    assert said - known == {
        "Expected …",
        "Object missing required field …",
        "Number out of range",
        "JSON is malformed: …",
        "Input data was truncated",
    }


def test_every_text_of_a_result_is_there() -> None:
    said = first_words("Texts of a result")
    faults = {text for module, (_, _, text_of) in calls("_fault") for text in texts(module, text_of)}
    refusals = {apns.NOT_A_TOKEN, fcm.NOT_A_TOKEN, apns.TOO_LARGE, fcm.TOO_LARGE}
    assert len(faults) >= 5
    assert {*BEHIND_A_COLON.findall(SECTIONS["Texts of a result"])} == refusals
    intake = (ROOT / "src" / "pushgate" / "intake.py").read_text()
    joined = {"the pushkey is dead", "and … more"}
    assert all(text.split(" … ")[0] in intake for text in joined)
    assert said == (faults - {"app_id …: …"}) | {f"app_id …: {each}" for each in refusals} | joined


OF_APPLE: dict[str, set[str]] = {
    "rejected": {reason for _, reason in apns_answer._REJECTED},
    "undeliverable": {reason for _, reason in apns_answer._UNDELIVERABLE},
    **{
        f"deferred: {cause}": {reason for (_, reason), of in apns_answer._CAUSES.items() if of is cause}
        for cause in Cause
    },
}
OF_GOOGLE: dict[str, set[str]] = {
    "rejected": {reason for _, reason in fcm_answer._REJECTED} | {"INVALID_ARGUMENT"},
    "undeliverable": {"INVALID_ARGUMENT"},
    **{
        f"deferred: {cause}": {reason for (_, reason), of in fcm_answer._CAUSES.items() if of is cause}
        for cause in Cause
    },
}


@pytest.mark.parametrize(("column", "known"), [(1, OF_APPLE), (2, OF_GOOGLE)], ids=["Apple", "Google"])
def test_every_word_of_a_provider_stands_by_its_outcome(column: int, known: dict[str, set[str]]) -> None:
    table = [
        row.strip("| ").split(" | ") for row in SECTIONS["Reasons of providers"].splitlines() if row.startswith("| ")
    ]
    rows = {cells[0]: words(cells[column]) if len(cells) > column else set() for cells in table if cells[0] in known}
    assert rows == {outcome: reasons for outcome, reasons in known.items() if outcome != "deferred: mass_rejection"}


def test_the_explanation_of_rejections_has_the_figures_of_the_code() -> None:
    page = (ROOT / "docs" / "explanation" / "rejections.md").read_text()
    limits = Settings().rejections
    for figure in (
        f"({limits.remember_s // 86400} days)",
        f"`breaker_count` pushkeys ({limits.breaker_count})",
        f"`breaker_share` ({limits.breaker_share:.0%})".replace("%", " %"),
        f"`rejections.breaker_window_s` ({limits.breaker_window_s / 60:.0f} minutes)",
        f"of the last {EVIDENCE} pushkeys",
    ):
        assert figure in page, figure


def test_every_reason_of_ours_is_there() -> None:
    ours = first_words("Reasons of providers")
    theirs = set[str]().union(*OF_APPLE.values(), *OF_GOOGLE.values())
    known = (apns.REASONS | fcm.REASONS) - theirs - answer.STATUS_REASONS
    assert known >= {*map(str, TokenFault)} | answer.CONNECTION_REASONS
    assert ours == known | {"status 503", "status other"}
