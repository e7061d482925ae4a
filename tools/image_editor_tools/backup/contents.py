"""What a database holds, as a backup records it and a restore finds it: rows and hashes of each table, and its migrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from image_editor_tools.errors import Failure, Refusal

# {"tables": {name: [rows, sum of the rows' hashes]}, "migrations": [app.name, ...]}
Contents = Mapping[str, Any]


def rows_of(contents: Contents) -> dict[str, int]:
    """The number of rows of each table."""
    return {table: count for table, (count, _) in contents["tables"].items()}


def differences(recorded: Contents, found: Contents) -> list[str]:
    """One line for each table that does not hold what was recorded."""
    wanted, there = recorded["tables"], found["tables"]
    return [
        f"{name}: {_rows(wanted, name)} recorded, {_rows(there, name)} found"
        for name in sorted({*wanted, *there})
        if list(wanted.get(name, [])) != list(there.get(name, []))
    ]


def _rows(tables: Mapping[str, Any], name: str) -> str:
    return f"{tables[name][0]} rows" if name in tables else "no table"


def require_equal(recorded: Contents, found: Contents, where: str) -> None:
    """Fail if a table does not hold what was recorded."""
    if different := differences(recorded, found):
        raise Failure(f"{where} does not hold what was recorded when it was backed up: " + "; ".join(different))


def missing_rows(contents: Contents, counted: Mapping[str, int]) -> list[str]:
    """One line for each table of which a dump does not have every row."""
    return [
        f"{name}: {rows} rows, {counted.get(name, 'none')} in the dump"
        for name, rows in rows_of(contents).items()
        if counted.get(name) != rows
    ]


def schema_is_behind(live: Contents | None, restored: Contents, migrate: bool) -> bool:
    """Whether the restored database lacks migrations that the installed release needs.

    The live database tells what the installed release needs. Refuses a schema that the release does not know, and one that is
    behind unless ``migrate`` allows it.
    """
    if not live or not live["migrations"]:
        return False
    newer = sorted(set(restored["migrations"]) - set(live["migrations"]))
    missing = sorted(set(live["migrations"]) - set(restored["migrations"]))
    if newer:
        raise Refusal(
            f"the backup has a newer schema than the installed release: {', '.join(newer)}; nothing was changed. "
            f"Deploy the release of its time first (release_version, playbooks/site.yml)"
        )
    if missing and not migrate:
        raise Refusal(
            f"the installed release has a newer schema than the backup: {', '.join(missing)}; nothing was changed. Deploy the "
            f"release of its time first, or let the restored database be migrated: -e restore_migrate=true"
        )
    return bool(missing)
