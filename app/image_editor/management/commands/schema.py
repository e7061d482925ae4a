"""``manage.py schema leaves|plan|migrate|back``: the migrations of a release, when it is rolled out or back.

A release runs beside the previous one until the last host has it, and may be rolled back afterwards. So its migrations
only expand the schema. A migration that contracts it (drops, renames, tightens) comes one release later. Clients write
meanwhile, so no migration locks a table for long.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.postgres.operations import ValidateConstraint
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection
from django.db.migrations import Migration, operations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
from django.db.models import NOT_PROVIDED, Field
from psycopg.errors import LockNotAvailable

from image_editor.management.locks import changed, long_locks, longer

EXPANDS = (
    ValidateConstraint,
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
PAUSES = (5, 15, 30, 60)  # seconds to the next try, after a lock was not to be had


class Command(BaseCommand):
    help = (
        "leaves: print the last migrations of this release, as JSON; needs no database. plan: print the pending "
        "migrations, and why they cannot run beside the previous release. migrate: apply them. back: print what it "
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
                self.migrate()
            answer = plan()
        else:
            answer = back(json.load(sys.stdin), apply=apply)
        self.stdout.write(json.dumps(answer))

    def migrate(self) -> None:
        """Apply the migrations. Each try waits for a lock for `lock_timeout` only, because writers queue behind it."""
        for pause in (*PAUSES, None):
            _drop_unfinished_indexes()
            try:
                call_command("migrate", interactive=False, verbosity=1, stdout=self.stderr)
                return
            except OperationalError as error:
                if pause is None or not isinstance(error.__cause__, LockNotAvailable):
                    raise
            self.stderr.write(f"a lock was not to be had; next try in {pause} s")
            time.sleep(pause)


def plan() -> dict[str, Any]:
    """The pending migrations by name, each with the reasons why it cannot run beside the previous release."""
    executor = MigrationExecutor(connection)
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    fresh = not executor.loader.applied_migrations  # nobody uses the database yet
    return {
        "fresh": fresh,
        "pending": {
            str(step): []
            if fresh
            else contractions(step, _before(executor, step)) + long_locks(step, _before(executor, step))
            for step, _ in steps
        },
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
            _drop_unfinished_indexes()
            executor.migrate(targets, [(step, True) for step in steps])
    return found


def contractions(migration: Migration, state: ProjectState) -> list[str]:
    """The reasons why the previous release cannot work with the migration; none if it only expands the schema.

    The migration changes ``state``. One that runs Python or SQL declares ``expands = True`` itself. That also says that
    what it runs locks no table for long.
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
    if isinstance(operation, EXPANDS):
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
            f"{operation.describe()}: say `expands = True` in the migration if the previous release works with it and "
            "it locks no table for long"
        ]
    return [operation.describe()]


def _relaxes(before: Field, after: Field) -> bool:
    """Whether every value that could be stored before can be stored afterwards, as the same type."""
    changes = changed(before, after)
    return (
        changes.keys() <= {"null", "max_length", "db_default"}
        and longer(before, after)
        and changes.get("null") is not NOT_PROVIDED
        and changes.get("db_default") is not NOT_PROVIDED
    )


def _before(executor: MigrationExecutor, step: Migration) -> ProjectState:
    return executor.loader.project_state((step.app_label, step.name), at_end=False)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the advisory lock under which migrations run. Refuses at once if somebody else holds it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        if not cursor.fetchone()[0]:
            raise CommandError("somebody else migrates this database at the moment")
    try:
        with connection.execute_wrapper(_patiently):
            yield
    finally:
        if connection.connection and not connection.connection.closed:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def _patiently(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Let a concurrent build wait for the transactions of others. No writer queues behind it."""
    if " CONCURRENTLY " not in str(sql):
        return execute(sql, params, many, context)
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '10min'")
        try:
            return execute(sql, params, many, context)
        finally:
            cursor.execute("RESET lock_timeout")


def _drop_unfinished_indexes() -> None:
    """Drop what interrupted concurrent builds have left. The next build under the same name would fail."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
            " WHERE NOT indisvalid AND relkind = 'i' AND relnamespace = current_schema()::regnamespace"
            " AND indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index)"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP INDEX CONCURRENTLY {name}")
