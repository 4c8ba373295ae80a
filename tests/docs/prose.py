"""What tests read in the documentation: its sentences, its blocks of code, and its links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^ *```.*?^ *```$", re.S | re.M)
_NOT_PROSE = re.compile(r"^ *(?:#|\||<|!\[|---).*$", re.M)
_QUOTE = re.compile(r"^ *> ?|\*\*", re.M)
_ITEM = re.compile(r"^ *(?:[-*]|\d+\.) +", re.M)
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of code in a language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def sentences(page: Path) -> list[str]:
    """The page's sentences: no headings, tables, pictures or code; an item of a list is at least one of its own."""
    text = _QUOTE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    text = _LINK.sub(r"\1", _NOT_PROSE.sub("", text))
    paragraphs = re.split(r"\n\s*\n", _ITEM.sub("\n\n", text))
    found = (sentence for paragraph in paragraphs for sentence in re.split(r"(?<=[.!?])[)_]* +", " ".join(paragraph.split())))
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def mean_length(page: Path) -> float:
    """Words in a sentence of the page, on average."""
    found = sentences(page)
    return sum(len(sentence.split()) for sentence in found) / len(found)


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures that are files of this project, with their anchors."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [target for _, target in _LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings."""
    headings = re.findall(r"^#+ +(.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
