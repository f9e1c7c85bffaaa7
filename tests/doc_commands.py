"""The commands and Python blocks of README.md and docs/, as they stand there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a command may start with, in a block or between backticks.
_STARTS = ("python train.py", "python evaluate.py", "moco-tf ", "make ")
_OTHERS = (*_STARTS, "python -m ", "python benchmarks/", "python tests/", "pip ")


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        page: file that it stands in.
        line: number of its line there.
        text: as it stands, continuation lines joined, comment and variables gone.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        """Where it stands, for the name of a test."""
        return f"{self.page}:{self.line}: {self.text}"


def commands() -> list[Command]:
    """All commands of all pages, in order."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = str(page.relative_to(ROOT))
        for block in re.finditer(r"^```sh\n(.*?)^```", text, re.S | re.M):
            first = text[: block.start(1)].count("\n") + 1
            found += _of_block(name, first, block[1])
        for code in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
            inline = " ".join(code[1].split())
            if inline.startswith(_OTHERS):
                line = text[: code.start()].count("\n") + 1
                found.append(Command(name, line, inline))
    return found


def _of_block(page, line, block):
    if block.startswith("curl"):  # one command, whose text goes over lines
        return [Command(page, line, block)]
    variables: dict[str, str] = {}
    found = []
    for part in re.split(r"(?<!\\)\n", block.rstrip("\n")):
        joined = re.sub(r"\\\n\s*", " ", part)
        joined = re.sub(r"\s+#.*$", "", joined).strip()
        if assigned := re.fullmatch(r"(\w+)=(\S+)", joined):
            variables[assigned[1]] = assigned[2]
        elif joined and not joined.startswith("#"):
            for name, value in variables.items():
                joined = joined.replace(f"${name}", value)
            found.append(Command(page, line, joined))
        line += part.count("\n") + 1
    return found


def python_blocks() -> list[tuple[str, list[str]]]:
    """Pages with their Python blocks, in order."""
    pages = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if blocks := re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
            pages.append((str(page.relative_to(ROOT)), blocks))
    return pages
