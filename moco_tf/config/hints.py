"""Type hints in words."""

from __future__ import annotations

import difflib
import typing


def meant(found: str, hint: object) -> str:
    """A question after one of the choices that looks like what was found."""
    choices = [word for word in typing.get_args(hint) if isinstance(word, str)]
    near = difflib.get_close_matches(found.lower(), choices, n=1)
    return f"did you mean {near[0]}? Or " if near else ""


def describe(hint: object) -> str:
    """A type hint in words."""
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return " or ".join([*map(describe, arguments[:-1]), "null"])
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(arguments)
    if typing.get_origin(hint) is tuple:
        items = {int: "whole numbers", float: "numbers", str: "names"}
        item = items[arguments[0]]
        count = "a list of" if Ellipsis in arguments else "a list of two"
        return f"{count} {item} in brackets"
    words: dict[object, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    return words.get(hint, "text, in quotes where it looks like a number")
