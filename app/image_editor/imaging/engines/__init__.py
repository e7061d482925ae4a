"""Edit engines, one module each. IMAGE_EDITOR_ENGINE names the module.

A module has a function ``create(env)`` that takes the environment and returns an :class:`Engine`. Engines import
neither Django nor Celery.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from image_editor.imaging.operations import Operation, Output

Progress = Callable[[int], None]
"""An engine calls it with the percentage done (0 to 100), as often as it likes."""


class EditError(Exception):
    """The edit can never succeed as asked. ``str()`` tells the client what to change; ``code`` names the kind."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class EngineUnavailable(Exception):
    """The engine cannot edit now, because a provider is down or busy. The same edit may succeed later."""


@dataclass(frozen=True, slots=True)
class Edited:
    """A finished image."""

    data: bytes
    extension: str  # without the dot: jpg, png, webp, avif
    content_type: str
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True, slots=True)
class Described:
    """An image of which only these facts are known."""

    format: str  # jpeg, png, webp
    width: int  # pixels, as a viewer shows the image
    height: int  # pixels


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine would do. None: it cannot tell."""

    operations: "tuple[Operation, ...] | None" = None
    format: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    seconds: float | None = None  # of processor time
    seconds_max: float | None = None  # an edit that takes more is refused


class Engine(Protocol):
    quick: bool
    """Whether an edit usually takes well below a second. Otherwise it is shown as under way from its beginning."""

    def check(self, prompt: str, source: bytes | None = None, output: "Output | None" = None) -> None:
        """Raise EditError if the prompt, or the prompt for this image, can be refused without decoding a pixel.

        Must be quick: the API calls it.
        """

    def plan(self, prompt: str, output: "Output | None" = None, image: Described | None = None) -> Plan:
        """Return what an edit would do, or raise the EditError of `check`. As quick as that."""

    def edit(self, source: bytes, prompt: str, progress: Progress, key: str, output: "Output | None" = None) -> Edited:
        """Edit one image. ``output`` says how the result is saved.

        ``key`` always identifies this edit. An engine that pays for each call passes it on, so that a repeated attempt
        is not paid for twice. Raises EditError or EngineUnavailable.
        """


def soft_time_limit(env: Mapping[str, str]) -> int:
    """Seconds that an edit may take."""
    limit = int(env.get("IMAGE_EDITOR_TASK_TIME_LIMIT") or 120)
    return int(env.get("IMAGE_EDITOR_TASK_SOFT_TIME_LIMIT") or max(limit * 5 // 6, 1))


def available() -> list[str]:
    """The names of all engines."""
    return sorted(module.name for module in iter_modules(__path__))


@cache
def get(name: str) -> Engine:
    """The engine of that name, made once for each process. LookupError if there is none."""
    if name not in available():
        raise LookupError(f"IMAGE_EDITOR_ENGINE is {name!r}; the engines are {', '.join(available())}")
    return import_module(f"{__name__}.{name}").create(os.environ)
