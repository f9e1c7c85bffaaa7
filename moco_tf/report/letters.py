"""Names in any script: a font that has their letters, or a number instead."""

from __future__ import annotations

import functools
import re

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text


def make_legible(figure: Figure) -> dict[str, str]:
    """Gives texts that the usual font cannot draw other fonts, or numbers.

    Returns:
        Number -> the word for which it stands, as no installed font has its letters.
    """
    numbers: dict[str, str] = {}

    def numbered(match):
        word = match[0]
        if all(map(_family, word)):
            return word
        return numbers.setdefault(word, f"#{len(numbers) + 1}")

    def spelt(text):
        # Nearly all texts: no word by word.
        return text if _is_plain(text) else re.sub(r"\S+", numbered, text)

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if all(map(_is_plain, labels)):
                continue
            # What the labels themselves say is written anew when they are drawn.
            axis.set_ticks(axis.get_ticklocs(), [spelt(label) for label in labels])
    for text in figure.findobj(Text):
        if not _is_plain(text.get_text()):
            text.set_text(spelt(text.get_text()))
        if not text.get_text().isascii():
            text.set_fontfamily(_families(text.get_text()))
    return {number: word for word, number in numbers.items()}


def _is_plain(text):
    return text.isascii() or all(letter in _usual() for letter in text)


def _families(text):
    families = dict.fromkeys(map(_family, "".join(text.split())))
    return list(dict.fromkeys([FontProperties().get_name(), *filter(None, families)]))


@functools.cache
def _family(letter: str) -> str | None:
    """A family that has a letter: the usual one, if it can be."""
    if letter in _usual():
        return FontProperties().get_name()
    for font in sorted(fontManager.ttflist, key=_distance_from_plain):
        # Matplotlib's "Last Resort" has a box for every letter there is.
        if "Last Resort" not in font.name and letter in _letters(font.fname):
            return font.name
    return None


def _distance_from_plain(font):
    weight = font.weight if isinstance(font.weight, int) else 400
    return (font.style != "normal", abs(weight - 400), font.name)


@functools.cache
def _usual() -> frozenset[str]:
    return _letters(findfont(FontProperties()))


@functools.cache
def _letters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # a font that was removed, or has only pictures
        return frozenset()
