"""The frame of the pages: how HTML is put together, escaped and written."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import pathlib
import string
from collections.abc import Mapping, Sequence

from moco_tf.report import look

# The series' colours on a dark ground, in the order of look.COLOURS.
DARK = ("#6aaaf0", "#f0a35a", "#63c98b", "#f58a9b", "#b9a2e6", "#d6bb62", "#54c6cf",
        "#ea92d0", "#a9c774", "#b4b4b4")  # fmt: skip
_HERE = pathlib.Path(__file__).parent


def document(
    title: str, body: str, data: object, scripts: Sequence[str], refresh: int = 0
) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
        data: JSON-serialisable, for the scripts.
        scripts: names of files beside this one.
        refresh: seconds after which a browser without scripts reads the page again;
            0 never.
    """
    again = f'<noscript><meta http-equiv="refresh" content="{refresh}"></noscript>'
    return string.Template(part("page.html")).substitute(
        title=html.escape(title),
        refresh=again if refresh else "",
        style=_colours() + part("page.css"),
        body=body,
        data=in_script(data),
        script="\n".join(map(part, scripts)),
    )


def part(name: str) -> str:
    """The text of a file beside this one."""
    return (_HERE / name).read_text(encoding="utf-8")


def in_script(data: object) -> str:
    """JSON that a script element can hold: nothing in it looks like its end."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def section(title: str, body: str, kind: str = "") -> str:
    """A part of the page with its heading; nothing for an empty one.

    Args:
        title: plain text.
        body: HTML.
        kind: its class, for the style sheet.
    """
    if not body:
        return ""
    return f'<section class="{kind}"><h2>{html.escape(title)}</h2>{body}</section>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts, the first column their names; nothing without rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    lines = "".join(
        "<tr><th>"
        + html.escape(row[0])
        + "</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    return f'<div class="wide"><table>{head}<tbody>{lines}</tbody></table></div>'


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and what they are, plain texts; those without a text are left out."""
    return '<dl class="facts">' + "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts.items()
        if value
    ) + "</dl>"  # fmt: skip


def picture(path: pathlib.Path, caption: str) -> str:
    """A PNG or JPEG file inside the page; nothing where it cannot be read."""
    try:
        held = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""
    kind = "png" if path.suffix == ".png" else "jpeg"
    text = html.escape(caption)
    return (
        f'<figure class="picture"><img alt="{text}" '
        f'src="data:image/{kind};base64,{held}"><figcaption>{text}</figcaption></figure>'
    )


def write_page(path: pathlib.Path, text: str) -> None:
    """Writes a page beside its place and moves it there, or leaves the former one."""
    staging = path.with_suffix(".tmp")
    try:
        staging.write_text(text, encoding="utf-8")
        staging.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk has its room back
            staging.unlink()
        raise


def percent(share: float | None) -> str:
    """A share as text."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _colours():
    light, dark = (
        "".join(f"--c{number}:{colour};" for number, colour in enumerate(colours))
        for colours in (look.COLOURS, DARK)
    )
    return f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
