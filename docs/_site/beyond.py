"""Pages as the site needs them: what they name outside of `docs/`, and lists as its reader of Markdown wants them.

In a checkout `../../SECURITY.md` leads to a file. The site has a page of its own for it, below `project/`. A link to
code or tests leads nowhere in the site, so its text stays and the link goes.

What belongs to an item of a list is indented as far as its text here, as CommonMark has it. Python-Markdown wants four
blanks, and would end the list there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

PAGES = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
PLAIN = ("config.default.toml", "config.schema.json", "LICENSE")
FOLDER = "project"
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files of the checkout that come with the site."""
    root = Path(config.docs_dir).parent
    for name in (*PAGES, *PLAIN):
        kept = InclusionLevel.NOT_IN_NAV if name in PAGES else InclusionLevel.UNDEFINED
        place = f"{FOLDER}/{name}" if "." in name else f"{FOLDER}/{name}.txt"
        files.append(File.generated(config, place, abs_src_path=str(root / name), inclusion=kept))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to such files to where they are in the site, drop those to others, and indent what is in lists."""
    root, here = Path(config.docs_dir).parent, page.file.src_uri
    is_of_the_checkout = here.startswith(f"{FOLDER}/")
    at = "" if is_of_the_checkout else f"docs/{posixpath.dirname(here)}"

    def lead(found: re.Match[str]) -> str:
        text, target, anchor = found[1], posixpath.normpath(posixpath.join(at, found[2])), found[3] or ""
        if target.startswith("docs/"):
            if not is_of_the_checkout:
                return found[0]
            place = target.removeprefix("docs/")
        elif target in PAGES or target in PLAIN:
            place = f"{FOLDER}/{target}" if "." in target else f"{FOLDER}/{target}.txt"
        elif (root / target).exists():
            return text
        else:
            return found[0]  # leads nowhere in the checkout either: let the build say so
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    return "\n".join(_indented(_LINK.sub(lead, markdown).split("\n")))


def _indented(lines: Iterable[str]) -> Iterator[str]:
    """The same with four blanks before what belongs to an item, however many there were."""
    width, is_block = 0, False
    for line in lines:
        is_block ^= line.startswith("```")
        if not is_block and (item := _ITEM.match(line)):
            width = len(item[0])
        elif line and not line.startswith(" "):
            width = 0
        inside = width and not is_block and line.startswith(" " * width)
        yield f"    {line[width:]}" if inside else line
