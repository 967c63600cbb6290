"""Reading what others may have written: JSON, words and URLs, each taken for no more than it is."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

T = TypeVar("T")
_NO_WORD = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*\[\]|])")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, no UTF-8, or nested deeper than this process can read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_as(kind: TypeAdapter[T], value: object) -> T:
    """A plain value as what it should be.

    Raises:
        ValueError: It is something else; one line that names the first fault.
    """
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found = repr(first["input"])
        words = f"{where}: {first['msg']} (found {found[:60]}{'…' * (len(found) > 60)})"
        raise ValueError(printable(words.lstrip(": "))) from None


def is_plain(words: str) -> bool:
    """Whether every terminal and file takes these words for one line of words, in the order they are written."""
    return words.isprintable() or not _NO_WORD.search(words)


def printable(words: str) -> str:
    """Words with escapes for what is none: most control characters, lone surrogates, reversals of direction."""
    if words.isprintable():
        return words
    return _NO_WORD.sub(lambda c: c[0] if c[0] in "\n\t" else c[0].encode("unicode_escape").decode(), words)


def say(console: Console, words: str, style: str = "", *, wrap: bool = False) -> None:
    """Prints words as they are: no bracket in a name or a reason is markup.

    Args:
        console: Where to print.
        words: What to print.
        style: Of all of it.
        wrap: Break lines at the console's width.
    """
    console.print(Text(printable(words), style=style), soft_wrap=not wrap)


def markdown_text(words: str) -> str:
    """Words as Markdown that shows them in one line: no HTML, link, picture, code or column begins in them."""
    line = " ".join(printable(words).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)


def without_user(text: str) -> str:
    """A text whose URLs hold no user name and no password."""
    return re.sub(r"://[^/\s]*@", "://", text)
