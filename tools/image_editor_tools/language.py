"""The language of what people read: Chinese where the locale says so, else English.

A text is translated when it is printed, and only on a terminal. Roles, timers, pipes and ``--json`` get the same English in every
locale. A text is found in the catalogue by its words, in which ``{}`` stands for any text. The catalogue, zh_CN.po, is read as it
is, so a host needs no compiled one. As a program, this module translates the lines of its standard input (scripts/speak).
"""

from __future__ import annotations

import ast
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import TextIO

CATALOGUE = Path(__file__).with_name("zh_CN.po")
ENTRY = re.compile(r'^msgid (".+")\nmsgstr (".+")$', re.MULTILINE)


def chinese(stream: TextIO) -> bool:
    """Whether a person who reads Chinese looks at the stream. The variables are those of gettext, the first one wins."""
    named = (os.environ.get(name, "") for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    if not next(filter(None, named), "").startswith("zh") or not stream.isatty():
        return False
    try:
        "中文".encode(stream.encoding)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _catalogue() -> list[tuple[re.Pattern[str], str]]:
    """Each text as a pattern, and its translation. Texts with more words come first."""
    entries = [tuple(map(ast.literal_eval, entry)) for entry in ENTRY.findall(CATALOGUE.read_text(encoding="utf-8"))]
    entries.sort(key=lambda entry: len(entry[0].replace("{}", "")), reverse=True)
    return [(re.compile("(.*?)".join(map(re.escape, text.split("{}"))), re.DOTALL), other) for text, other in entries]


def translated(text: str) -> str:
    """The text in Chinese, and so what stands in its gaps. A text that is not in the catalogue stays as it is."""
    words = text.strip()
    for pattern, other in _catalogue():
        if found := pattern.fullmatch(words):
            return text.replace(words, other.format(*map(translated, found.groups())), 1)
    return text


def said(text: str, stream: TextIO) -> str:
    """The text as the stream should have it."""
    return translated(text) if chinese(stream) else text


if __name__ == "__main__":
    for line in sys.stdin:
        print(said(line.rstrip("\n"), sys.stdout), flush=True)
