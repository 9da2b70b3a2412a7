"""The documentation as a site: it builds without a warning and without a network, and nothing in it leads nowhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BESIDE = (ROOT / ".venv-docs" / "bin" / "mkdocs", Path(sys.executable).with_name("mkdocs"))
MKDOCS = next((str(each) for each in BESIDE if each.exists()), shutil.which("mkdocs"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""What a browser fetches by itself to show a page: element and attribute."""
NOT_FETCHED = {"canonical", "next", "prev", "alternate"}
"""Kinds of `<link>` that only name another page."""
NOWHERE = "http://127.0.0.1:9"
TOLD_APART = re.compile(r"```|^\s*\|.*\||\]\(", re.M)
"""Markdown that stayed as it was written, for the site reads it by other rules than the checkout's web pages."""


class Page(HTMLParser):
    """What a page of the site names."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.classes: set[str] = set()
        self.prose = ""
        self.blocks_in_lists = 0
        self._silent = 0
        self._items = 0
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.anchors |= {has[name] for name in ("id", "name") if name in has}
        self.classes |= {*has.get("class", "").split()}
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        if (name := LOADED.get(tag)) in has and has.get("rel") not in NOT_FETCHED:
            self.loaded.append(has[str(name)])
        self._silent += tag in ("code", "script", "style")
        self._items += tag == "li"
        self.blocks_in_lists += bool(self._items) and "highlight" in has.get("class", "").split()

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("code", "script", "style")
        self._items -= tag == "li"

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.prose += data


class Site:
    """The site as it lies on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> Mapping[Path, Page]:
        found = [
            each for each in self.folder.rglob("*.html") if each.name != "404.html"
        ]  # that has no place of its own
        return {each: Page(each) for each in found}

    def leads_to(self, page: Page, link: str) -> tuple[Path, str]:
        parts = urlsplit(link)
        target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
        return target / "index.html" if target.is_dir() else target, unquote(parts.fragment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    if MKDOCS is None:
        pytest.skip("mkdocs is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE}
    built = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr  # and not --quiet, which has nobody count them
    return Site(folder)


def test_every_page_is_in_the_site_and_in_its_navigation(site: Site) -> None:
    index = site.pages[site.folder / "index.html"]
    named = {site.leads_to(index, link)[0] for link in index.links if not urlsplit(link).scheme}
    written = {site.folder / each.relative_to(DOCS).with_suffix(".html") for each in DOCS.rglob("*.md")}
    assert len(written) > 20
    assert written - {*site.pages} == set(), "not in the site"
    assert written - named == set(), "not in the navigation"


def test_every_link_leads_to_a_page_and_its_anchor(site: Site) -> None:
    lost = []
    for page in site.pages.values():
        for link in [*page.links, *page.loaded]:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            target, anchor = site.leads_to(page, link)
            there = target.is_file() and (
                not anchor or target.suffix != ".html" or anchor in site.pages[target].anchors
            )
            if not there:
                lost.append((page.file.relative_to(site.folder).as_posix(), link))
    assert lost == []


def test_nothing_is_fetched_from_elsewhere(site: Site) -> None:
    """What would be: a source or stylesheet, an import of a style. And of what only code would fetch: its occasions."""
    for page in site.pages.values():
        abroad = [each for each in page.loaded if urlsplit(each).scheme not in ("", "data") or each.startswith("//")]
        assert abroad == [], page.file.name
        assert "mermaid" not in page.classes, "the theme loads the drawing of it from elsewhere"
        assert "md-source" not in page.classes, "the theme asks the host of a repository for its stars"
    for style in site.folder.rglob("*.css"):
        found = re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]*)|@import[^;]*//[^;]*", style.read_text())
        assert found == [], style.name


def test_every_picture_is_shown_and_says_what_it_shows(site: Site) -> None:
    shown = {site.leads_to(page, each)[0] for page in site.pages.values() for each in page.loaded}
    pictures = [each for each in (DOCS / "images").rglob("*") if each.is_file()]
    assert pictures
    assert {site.folder / each.relative_to(DOCS) for each in pictures} - shown == set()
    for page in DOCS.rglob("*.md"):
        assert not re.search(r"!\[\s*\]\(", page.read_text()), f"{page.name}: a picture without words"


def test_nothing_is_left_as_it_was_written(site: Site) -> None:
    """Tables, fences and links came out as such: two readers of Markdown differ in lists and what stands in them."""
    for page in site.pages.values():
        if found := TOLD_APART.search(page.prose):
            begin = max(0, found.start() - 60)
            pytest.fail(f"{page.file.name}: {page.prose[begin : found.end() + 60]}")


def test_what_belongs_to_an_item_of_a_list_stays_in_it(site: Site) -> None:
    """Else the list ends there, and the next step is the first one again."""
    counted = 0
    for page in DOCS.rglob("*.md"):
        written = len(re.findall(r"^ +```\w+", page.read_text(), re.M))
        built = site.pages[site.folder / page.relative_to(DOCS).with_suffix(".html")]
        assert built.blocks_in_lists == written, page.name
        counted += written
    assert counted


def headings(page: Path) -> Iterator[str]:
    """Of the page, not of what stands in its blocks."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.M | re.S)
    yield from re.findall(r"^# .*$", text, re.M)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_page_has_one_title(page: Path) -> None:
    assert len([*headings(page)]) == 1


def test_the_page_of_the_api_is_that_of_its_document() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tests.http_reference"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert (DOCS / "reference" / "http.md").read_text() == made.stdout
