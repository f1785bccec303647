"""The README and the guide in ``.github/docs``: where they are, and what they show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDE = ROOT / ".github" / "docs"
#: Every page that a user is meant to read, in order of reading.
PAGES = (
    README,
    GUIDE / "README.md",
    *sorted(set(GUIDE.glob("*.md")) - {GUIDE / "README.md"}),
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    ROOT / "containers" / "README.md",
)
BLOB = "https://github.com/kmem-harness/kmem-harness/blob/main/"
#: Where pictures are shown from.
RAW = "https://raw.githubusercontent.com/kmem-harness/kmem-harness/main/"


def read(page: Path) -> str:
    """The text of a page."""
    return page.read_text(encoding="utf-8")


def between(page: Path, name: str) -> str:
    """What stands between the comments ``NAME:begin`` and ``NAME:end`` of a page."""
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", read(page), re.DOTALL)
    assert found, f"{page.relative_to(ROOT)} lacks the marks {name}"
    return found[1]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """Where a page links to, pictures included, and definitions of references, too."""
    text = prose(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE
    )


def commands() -> set[str]:
    """The command lines of ``kmem-harness`` that the pages show after a prompt."""
    shown = "\n".join(block for page in PAGES for block in blocks(page, "console"))
    return set(re.findall(r"^\$ (kmem-harness .*)$", shown, re.MULTILINE))
