"""Pages: one HTML file each, which shows data in any browser. It loads nothing, and every chart can be saved as SVG.

A chart is plain data, which `charts.js` draws; an axis is `{"label": text, "log": 2 or 10}`, or without `log` linear from 0:

    {"title": text, "x": axis, "y": axis, "series": [series, ...]}      points and lines
    {"title": text, "x": axis, "rows": [row, ...], "legend": [...]}     bars from the left, a row each

A series has `points`, each `[x, y]` or `[x, y, low, high]`, and may have a `name`, a `colour` (a number), `line` and `dashed`.
A row has a `name` and may have a `note`, the `bar` as a list of `[length, colour, text]`, `low`, `high`, and a `text` after it.
A legend, if there is one, has a `name` and a `colour` for each kind of bar.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .files import check_output, write_output

MARK = "plotted by diffucode"
"""In every page, so that no other file is replaced."""
CHARTS = Path(__file__).with_name("charts.html")
GREY = 7
"""The colour of what others are compared with."""


def page_path(path: Path, *, flag: str) -> Path:
    """The file of a page, which a flag names with or without its ending.

    Raises:
        ConfigError: the name has another ending.
        FileError: the file cannot be written later, or exists and is not a page of this program.
    """
    path = path if path.suffix else path.with_name(path.name + ".html")
    if path.suffix.lower() != ".html":
        raise ConfigError(f"{flag} {path}: the name must end in .html; on the page you can save each chart as SVG", field=flag)
    check_output(path, MARK, "a page by diffucode", flag=flag)
    return path


def write_page(path: Path, title: str, data: Any, *, flag: str, template: Path = CHARTS) -> None:
    """Write a page, whole or not at all. Raises `FileError`, which names the flag and the file."""
    write_output(path, page_of(title, data, template), flag=flag)


def page_of(title: str, data: Any, template: Path = CHARTS) -> str:
    """The page's HTML.

    Args:
        data: ready for JSON. Its texts are shown as text. `CHARTS` takes `{"notes": [text, ...], "charts": [chart, ...]}`.
    """
    # "<" could end the element that holds the data.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    script = CHARTS.with_suffix(".js").read_text(encoding="utf-8")
    values = {"title": html.escape(title), "charts": script, "data": text}
    page = re.sub("{{(title|charts|data)}}", lambda found: values[found[1]], template.read_text(encoding="utf-8"))
    return page.encode("utf-8", "replace").decode()
