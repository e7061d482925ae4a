"""All that clients saw of the platform during a run, and what they must never see. Lines of a load go in. No host is asked.

A line is the answer to a request, or a callback that has arrived:

    {"kind": "list", "at": 12.5, "seconds": 0.1, "again": false, "status": 200, "edit": "", "seen": [["5f…", "succeeded", "/…"]]}
    {"kind": "callback", "at": 13.0, "webhook": "c2…", "edit": "5f…", "state": "succeeded", "result": "/media/…"}

``at`` is when the request was sent, or when the callback arrived. ``status`` is 0 if there was no answer. ``unavailable``, if
there, is the code of a 503 with a problem document that names the seconds to wait. ``again`` marks a request that was sent
for the second time, because the first time had failed. ``seen`` has what the answer says of edits: the state and the result's
name. The state `gone` means that the edit or its result was not found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, or that there was none."""

    kind: str  # edit, list, status, download
    at: float
    seconds: float
    status: int
    again: bool = False
    unavailable: str = ""  # the code of a 503 with a problem document that names the seconds to wait

    @property
    def end(self) -> float:
        return self.at + self.seconds

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class Window:
    """The answers that clients got in a part of the run."""

    answers: list[Answer]
    began: float
    ended: float

    def failed(self, *kinds: str, again: bool = False) -> list[Answer]:
        """Requests that failed when they were first sent; with ``again``, those that failed once more. No kinds: all kinds."""
        return [
            answer for answer in self.answers if not answer.ok and answer.again == again and (not kinds or answer.kind in kinds)
        ]

    def gap(self, *kinds: str) -> float:
        """The longest time in seconds without a good answer. No kinds: to requests of any kind."""
        good = sorted(answer.end for answer in self.answers if answer.ok and (not kinds or answer.kind in kinds))
        times = [self.began, *(at for at in good if self.began <= at <= self.ended), self.ended]
        return max(later - earlier for earlier, later in pairwise(times))

    def slowest(self, kind: str, before: float = math.inf) -> float:
        """The longest time in seconds for which a client waited for a good answer to a request sent before this time."""
        good = (answer for answer in self.answers if answer.ok and answer.kind == kind and answer.at < before)
        return max((answer.seconds for answer in good), default=0.0)


@dataclass
class History:
    """The whole run: answers since the last window, and everything that was promised to clients."""

    answers: list[Answer] = field(default_factory=list)
    accepted: dict[str, float] = field(default_factory=dict)  # when each edit was acknowledged
    ends: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # each end of an edit: the state and the result
    webhooks: dict[str, set[str]] = field(default_factory=dict)  # the callbacks of each edit. A repetition has the same id.
    shown: dict[str, float] = field(default_factory=dict)  # when a client first knew that the result is there
    vanished: list[str] = field(default_factory=list)  # results that a client knew of and that were gone later

    def feed(self, line: Mapping[str, Any]) -> None:
        """Take in one line of the load."""
        if line["kind"] == "callback":
            self.webhooks.setdefault(line["edit"], set()).add(line["webhook"])
            self._see(line["edit"], line["state"], line["result"], line["at"], line["at"])
            return
        answer = Answer(line["kind"], line["at"], line["seconds"], line["status"], line["again"], line.get("unavailable", ""))
        self.answers.append(answer)
        if answer.kind == "edit" and answer.ok:
            self.accepted.setdefault(line["edit"], answer.end)
        for edit, state, result in line["seen"]:
            self._see(edit, state, result, answer.at, answer.end)

    def _see(self, edit: str, state: str, result: str, asked: float, answered: float) -> None:
        if state in ENDED:
            self.ends.setdefault(edit, set()).add((state, result))
        if state == "succeeded":
            self.shown[edit] = min(answered, self.shown.get(edit, answered))
        # An answer that was on its way when another one showed the result may be older than the result.
        elif asked > self.shown.get(edit, asked):
            self.vanished.append(f"{edit} was {state} at {asked:.3f}, and its result was there at {self.shown[edit]:.3f}")

    def window(self, began: float, ended: float) -> Window:
        """The answers since the last window, so that each answer is in one window."""
        answers, self.answers = self.answers, []
        return Window(answers, began, ended)

    def lost(self, succeeded: Collection[str]) -> list[str]:
        """Acknowledged edits that are not among those which have succeeded in the end."""
        return [edit for edit in self.accepted if edit not in succeeded]

    def silent(self) -> list[str]:
        """Acknowledged edits of whose end the client was not told."""
        return [edit for edit in self.accepted if edit not in self.webhooks]

    def doubled(self) -> list[str]:
        """Edits with two effects: two different ends or results, or two callbacks that are no repetition of each other."""
        return sorted({edit for edit, found in chain(self.ends.items(), self.webhooks.items()) if len(found) > 1})


def two_primaries(writes: Iterable[tuple[str, str, float]]) -> list[str]:
    """Where two nodes acknowledged writes at the same time. A write is a timeline of PostgreSQL, a node, and a time.

    A promotion begins a timeline. So a timeline belongs to one node, and it has ended when the next one begins.
    """
    spans: dict[str, tuple[set[str], float, float]] = {}
    for timeline, node, at in writes:
        nodes, first, last = spans.get(timeline, (set(), at, at))
        spans[timeline] = nodes | {node}, min(first, at), max(last, at)
    ordered = sorted(spans.items())
    return [
        *(f"{' and '.join(sorted(nodes))} wrote on timeline {timeline}" for timeline, (nodes, _, _) in ordered if len(nodes) > 1),
        *(
            f"timeline {former} had a write at {last:.3f}, {last - first:.3f} s after the first on timeline {later}"
            for (former, (_, _, last)), (later, (_, first, _)) in pairwise(ordered)
            if last > first
        ),
    ]
