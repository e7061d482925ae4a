"""What hosts remember of rollbacks: which features and releases were rolled back, when and by whom.

The memory is one JSON file on every host, a mapping of names to entries. A name is that of a feature, or ``release <id>``.
When a feature is brought back, its entry stays and says so. The newest entry of a name counts, so the older memory of a host
that was away has no effect.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

Memory = dict[str, dict[str, Any]]


def rolled_back_read(slurped: Iterable[Mapping[str, Any]]) -> Memory:
    """Merge the files of several hosts, as the module ``slurp`` returns them. The newest entry of a name counts."""
    memory: Memory = {}
    for result in slurped:
        if not result.get("content"):
            continue
        for name, entry in json.loads(base64.b64decode(result["content"])).items():
            if name not in memory or entry["at"] > memory[name]["at"]:
                memory[name] = entry
    return dict(sorted(memory.items()))


def rolled_back_remember(
    memory: Mapping[str, Any], names: Iterable[str], *, rolled_back: bool, at: str, by: str, commit: str = "", line: str = ""
) -> Memory:
    """Record that ``names`` were rolled back, or brought back again. What is recorded already stays as it is."""
    changed = dict(memory)
    for name in names:
        before = memory.get(name, {"rolled_back": False})
        if before["rolled_back"] != rolled_back or (rolled_back and before["line"] != line):
            changed[name] = {"rolled_back": rolled_back, "at": at, "by": by, "commit": commit, "line": line}
    return dict(sorted(changed.items()))


def rolled_back_conflicts(
    memory: Mapping[str, Any], known: Mapping[str, Any], values: Mapping[str, Any], release: str = ""
) -> list[str]:
    """The names that were rolled back and that the inventory would bring back.

    ``known``: the features with their switches. ``values``: the inventory's value of each switch. ``release``: the id of the
    release that the inventory names.
    """
    on = [name for name, feature in known.items() if name in values and _same(values[name], feature["values"][True])]
    return [name for name in [*on, f"release {release}"] if memory.get(name, {}).get("rolled_back")]


def rolled_back_refusals(memory: Mapping[str, Any], conflicts: Iterable[str], accepted: str | Iterable[str]) -> list[str]:
    """Why the run is refused: a text for each conflict that is not in ``accepted`` (a list of names, or a text with commas)."""
    accepted = {name.strip() for name in (accepted.split(",") if isinstance(accepted, str) else accepted)}
    return [_refusal(name, memory[name]) for name in conflicts if name.removeprefix("release ") not in accepted]


def _same(value: object, wanted: object) -> bool:
    return str(value).lower() == str(wanted).lower()


def _refusal(name: str, entry: Mapping[str, Any]) -> str:
    commit = f", at commit {entry['commit']}" if entry["commit"] else ""
    is_release = name.startswith("release ")
    file = "releases.yml" if is_release else "features.yml"
    option = f"release_bring_back={name.removeprefix('release ')}" if is_release else f"feature_bring_back={name}"
    return (
        f"{name} was rolled back on {entry['at'].replace('T', ' ').removesuffix('Z')} UTC by {entry['by']}{commit}. "
        f"This inventory would bring it back. To keep it rolled back, commit this line in group_vars/all/{file}: "
        f"{entry['line']}. To bring it back: -e {option}"
    )


class FilterModule:
    """Filters of role feature."""

    def filters(self) -> dict[str, object]:
        """Return each filter under its name."""
        return {
            "rolled_back_conflicts": rolled_back_conflicts,
            "rolled_back_read": rolled_back_read,
            "rolled_back_refusals": rolled_back_refusals,
            "rolled_back_remember": rolled_back_remember,
        }
