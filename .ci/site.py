"""What MkDocs needs to know of this repository: links that leave docs/ (mkdocs.yml).

In the repository a page links to any file beside docs/, such as a table of figures. The
site gets a copy of each such file, as text that a browser shows, and of a folder a page
that lists its files, so that it is whole without the repository and without a network.
"""

from __future__ import annotations

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIES = "repository"
# The target of a Markdown link that climbs out of docs/, and what may follow it.
_LINK = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds copies of the files that pages link to."""
    pages = [file for file in files if file.is_documentation_page()]
    for page in pages:
        for link in _LINK.finditer(page.content_string):
            place = _place(page, link)
            if place is not None:
                _add(place, files, config)
    return files


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to such files into links to their copies."""

    def turned(link):
        place = _place(page.file, link)
        if place is None:
            return link[0]
        up = "../" * page.file.src_uri.count("/")
        return f"]({up}{_copy(place)}{link[3] or ''})"

    return _LINK.sub(turned, markdown)


def _place(page, link):
    """The path in the repository of a link that leaves docs/; None where none does."""
    folder = (ROOT / "docs" / page.src_uri).parent
    place = (folder / link[1] / link[2]).resolve()
    if not place.exists() or (ROOT / "docs") in place.parents:
        return None  # MkDocs names it, or finds it
    return place.relative_to(ROOT)


def _copy(place):
    end = "/index.md" if (ROOT / place).is_dir() else ".txt"
    return f"{COPIES}/{place.as_posix()}{end}"


def _add(place, files, config):
    name = _copy(place)
    if files.get_file_from_path(name):
        return
    folder = ROOT / place
    if not folder.is_dir():
        text = folder.read_text(encoding="utf-8")
    else:
        inside = sorted(path for path in folder.iterdir() if path.is_file())
        for path in inside:
            _add(place / path.name, files, config)
        links = [f"- [{path.name}]({path.name}.txt)\n" for path in inside]
        text = f"# {place.as_posix()}\n\n{''.join(links)}"
    copy = File.generated(config, name, content=text)
    copy.inclusion = InclusionLevel.NOT_IN_NAV
    files.append(copy)
