"""Errors whose text is meant for the operator. ``cli.run`` prints the text and ends the command with exit code 1."""

from __future__ import annotations


class Failure(Exception):
    """The command could not do its work. The text says what went wrong and what to do.

    ``code`` is the exit code of the program that failed, or 0 if no program did.
    """

    prefix = ""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Refusal(Failure):
    """The command would be unsafe or useless now. It has changed nothing, unless the text says otherwise."""

    prefix = "refused: "
