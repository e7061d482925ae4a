"""Which operations of a migration keep writers waiting for long, and what to write instead.

PostgreSQL locks a table for each change of it, until the transaction ends. Most changes take milliseconds, however
large the table is. The operations that are found here read or rewrite the whole table while writers wait.
"""

from typing import Any

from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db import connection
from django.db.migrations import Migration, operations
from django.db.migrations.state import ProjectState
from django.db.models import NOT_PROVIDED, CheckConstraint, Field, UniqueConstraint, Value
from django.db.models.functions import Now

QUICK = (AddIndexConcurrently, AddConstraintNotValid)
STABLE = (Value, Now)  # PostgreSQL computes these defaults once, and does not write them into each row
CONCURRENTLY = "AddIndexConcurrently in a migration with atomic = False"
UNIQUE = "RunSQL('CREATE UNIQUE INDEX CONCURRENTLY …') in a migration with atomic = False, the rest as state_operations"
VALIDATE = "AddConstraintNotValid, and ValidateConstraint in the next migration"
NEW_COLUMN = "a new nullable column, which is filled in batches"


def long_locks(migration: Migration, state: ProjectState) -> list[str]:
    """The operations that lock a table for long, each with what to write instead. The migration changes ``state``.

    Tables that the migration creates are empty. What it runs as Python or SQL is its author's to judge.
    """
    found, created = [], set()
    for operation in migration.operations:
        separate = isinstance(operation, operations.SeparateDatabaseAndState)
        for inner in operation.database_operations if separate else [operation]:
            model = getattr(inner, "model_name", getattr(inner, "name", ""))
            if model.lower() not in created and (instead := _instead(inner, migration, state)):
                found.append(f"{inner.describe()}, which locks the table for long: write {instead}")
        if isinstance(operation, operations.CreateModel):
            created.add(operation.name_lower)
        operation.state_forwards(migration.app_label, state)
    return found


def _instead(operation: Any, migration: Migration, state: ProjectState) -> str:
    """What to write instead of an operation. Empty if its locks are short."""
    match operation:
        case _ if isinstance(operation, QUICK):
            return ""
        case operations.AddIndex():
            return CONCURRENTLY
        case operations.AddConstraint(constraint=CheckConstraint()):
            return VALIDATE
        case operations.AddConstraint(constraint=UniqueConstraint()) | operations.AlterUniqueTogether():
            return UNIQUE
        case operations.AddConstraint():
            return "a check of the application, or confirm it for an hour without load"
        case ValidateConstraint() if migration.atomic and len(migration.operations) > 1:
            return "it into a migration of its own, because the locks of the other operations last as long"
        case operations.AddField():
            return _instead_of_column(operation.name, operation.field)
        case operations.AlterField():
            before = state.models[migration.app_label, operation.model_name_lower].fields[operation.name]
            return _instead_of_change(before, operation.field)
    return ""


def _instead_of_column(name: str, field: Field) -> str:
    if field.many_to_many:
        return ""
    if field.unique:
        return f"the field without it, then {UNIQUE}"
    if field.db_index:
        return f"the field with db_index=False, then {CONCURRENTLY}"
    if field.generated or (
        hasattr(field.db_default, "resolve_expression") and not isinstance(field.db_default, STABLE)
    ):
        return NEW_COLUMN
    column = field.clone()
    column.set_attributes_from_name(name)
    if column.db_check(connection):
        return f"the field with a type that has no check, and if needed {VALIDATE}"
    return ""


def _instead_of_change(before: Field, after: Field) -> str:
    changes = changed(before, after)
    if after.unique and not before.unique:
        return UNIQUE
    if after.db_index and not before.db_index:
        return CONCURRENTLY
    if before.null and not after.null:
        return f"{VALIDATE}, for a check that the column is not null; then this operation is quick, and is confirmed"
    if not longer(before, after) or changes.keys() - {"null", "max_length", "db_default", "db_index", "unique"}:
        return NEW_COLUMN
    return ""


def changed(before: Field, after: Field) -> dict[str, Any]:
    """The new values of what differs in the column. ``type`` is the class of the field."""
    (_, old_type, _, old), (_, new_type, _, new) = before.deconstruct(), after.deconstruct()
    old, new = old | {"type": old_type}, new | {"type": new_type}
    names = (old.keys() | new.keys()) - set(before.non_db_attrs) - {"default"}
    return {name: new.get(name, NOT_PROVIDED) for name in names if old.get(name) != new.get(name)}


def longer(before: Field, after: Field) -> bool:
    """Whether every text that fitted into the column fits into it afterwards."""
    return after.max_length is None or (before.max_length is not None and after.max_length >= before.max_length)
