"""``manage.py schema leaves|plan|migrate|back``: the migrations of a release, when it is rolled out or back.

A release runs beside the previous one until the last host has it, and may be rolled back afterwards. So its migrations
only expand the schema. A migration that contracts it (drops, renames, tightens) comes one release later.
"""

import json
import sys
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations import Migration, operations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
from django.db.models import NOT_PROVIDED, Field

EXPANDS = (
    operations.CreateModel,
    operations.AddIndex,
    operations.RemoveIndex,
    operations.RenameIndex,
    operations.RemoveConstraint,
    operations.AlterModelOptions,
    operations.AlterModelManagers,
    operations.AlterModelTableComment,
)
LOCK = 0x1ED17  # the advisory lock of this command


class Command(BaseCommand):
    help = (
        "leaves: print the last migrations of this release, as JSON; needs no database. plan: print the pending "
        "migrations, and which of them the previous release cannot work with. migrate: apply them. back: print what it "
        "takes to go back to the leaves on standard input; with --apply, do it."
    )
    requires_system_checks = []  # the gate of a release runs them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["leaves", "plan", "migrate", "back"])
        parser.add_argument("--apply", action="store_true", help="with back: reverse the migrations")

    def handle(self, *, action: str, apply: bool, **_: Any) -> None:
        if action == "leaves":
            answer: Any = dict(sorted(MigrationLoader(None).graph.leaf_nodes()))
        elif action == "plan":
            answer = plan()
        elif action == "migrate":
            with _alone():
                call_command("migrate", interactive=False, verbosity=1, stdout=self.stderr)
            answer = plan()
        else:
            answer = back(json.load(sys.stdin), apply=apply)
        self.stdout.write(json.dumps(answer))


def plan() -> dict[str, Any]:
    """The pending migrations by name, each with the reasons why the previous release cannot work with it."""
    executor = MigrationExecutor(connection)
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    fresh = not executor.loader.applied_migrations  # nobody uses the database yet
    return {
        "fresh": fresh,
        "pending": {str(step): [] if fresh else contractions(step, _before(executor, step)) for step, _ in steps},
    }


def back(leaves: dict[str, str], *, apply: bool = False) -> dict[str, Any]:
    """The migrations to reverse, those of them that contract the schema, and those that cannot be reversed."""
    executor = MigrationExecutor(connection)
    graph = executor.loader.graph
    labels = {label for label, _ in graph.leaf_nodes()} | leaves.keys()
    targets = [(label, leaves.get(label)) for label in sorted(labels)]
    unknown = [f"{label}.{name}" for label, name in targets if name and (label, name) not in graph.nodes]
    if unknown:
        raise CommandError(f"this release does not know {', '.join(unknown)}: the newer of the two has to go back")
    steps = [step for step, backwards in executor.migration_plan(targets) if backwards]
    found = {
        "migrations": [str(step) for step in steps],
        "contract": [str(step) for step in steps if contractions(step, _before(executor, step))],
        "irreversible": [str(step) for step in steps if not all(operation.reversible for operation in step.operations)],
    }
    if apply and steps:
        if found["irreversible"]:
            raise CommandError(f"cannot be reversed: {', '.join(found['irreversible'])}")
        with _alone():
            executor.migrate(targets, [(step, True) for step in steps])
    return found


def contractions(migration: Migration, state: ProjectState) -> list[str]:
    """The reasons why the previous release cannot work with the migration; none if it only expands the schema.

    The migration changes ``state``. One that runs Python or SQL declares ``expands = True`` itself.
    """
    if getattr(migration, "expands", False):
        return []
    found = []
    for operation in migration.operations:
        found += _contractions(operation, migration.app_label, state)
        operation.state_forwards(migration.app_label, state)
    return found


def _contractions(operation: Any, label: str, state: ProjectState) -> list[str]:
    if isinstance(operation, operations.SeparateDatabaseAndState):
        return [why for inner in operation.database_operations for why in _contractions(inner, label, state)]
    if isinstance(operation, EXPANDS) or type(operation).__name__ == "AddIndexConcurrently":
        return []
    if isinstance(operation, operations.AddField):
        field = operation.field
        if field.many_to_many or field.null or field.db_default is not NOT_PROVIDED:
            return []
        return [f"{operation.describe()}, which it does not fill: null=True or a db_default"]
    if isinstance(operation, operations.AlterField):
        before = state.models[label, operation.model_name_lower].fields[operation.name]
        if _relaxes(before, operation.field):
            return []
    if isinstance(operation, operations.RunPython | operations.RunSQL):
        return [
            f"{operation.describe()}: say `expands = True` in the migration if it is harmless to the previous release"
        ]
    return [operation.describe()]


def _relaxes(before: Field, after: Field) -> bool:
    """Whether every value that could be stored before can be stored afterwards, as the same type."""
    (_, old_path, _, old), (_, new_path, _, new) = before.deconstruct(), after.deconstruct()
    stored = (old.keys() | new.keys()) - set(before.non_db_attrs) - {"default"}
    changed = {name for name in stored if old.get(name) != new.get(name)}
    longer = (new.get("max_length") or sys.maxsize) >= (old.get("max_length") or sys.maxsize)
    return (
        old_path == new_path
        and changed <= {"null", "max_length", "db_default"}
        and longer
        and (new.get("null", False) or not old.get("null", False))
        and not ("db_default" in old and "db_default" not in new)
    )


def _before(executor: MigrationExecutor, step: Migration) -> ProjectState:
    return executor.loader.project_state((step.app_label, step.name), at_end=False)


class _alone:
    """Holds the advisory lock under which migrations run; refuses at once if somebody else holds it."""

    def __enter__(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
            if not cursor.fetchone()[0]:
                raise CommandError("somebody else migrates this database at the moment")

    def __exit__(self, *_: object) -> None:
        if connection.connection and not connection.connection.closed:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
