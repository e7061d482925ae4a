"""What commands print: text for people, or one JSON object for programs (``--json``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_editor_tools.language import said


@dataclass(frozen=True)
class Output:
    """Prints progress and the result of one command.

    With ``as_json``, standard output carries one JSON object and nothing else. Progress goes to standard error.
    """

    as_json: bool = False

    def progress(self, text: str) -> None:
        """Print a line while the command works."""
        stream = sys.stderr if self.as_json else sys.stdout
        print(said(text, stream), file=stream, flush=True)

    def result(self, values: Mapping[str, object], lines: Iterable[str] = ()) -> None:
        """Print what the command found: ``lines`` for people, ``values`` for programs."""
        if self.as_json:
            print(json.dumps(values, default=str), flush=True)
        else:
            for line in lines:
                print(said(line, sys.stdout), flush=True)
