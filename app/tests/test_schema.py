"""Migrations of a release: which of them the previous release can work with, and which a rollback reverses."""

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from conftest import APP
from django.core.management import CommandError, call_command
from django.db import connection, migrations, models
from django.db.migrations.state import ModelState, ProjectState
from django.db.models.functions import Now


def schema(*arguments: str, stdin: str = "", monkeypatch: pytest.MonkeyPatch | None = None) -> dict[str, Any]:
    if monkeypatch:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    out = io.StringIO()
    call_command("schema", *arguments, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def found(*operations: Any, **attributes: Any) -> list[str]:
    from image_editor.management.commands.schema import contractions

    state = ProjectState()
    fields = [("id", models.BigAutoField(primary_key=True)), ("note", models.CharField(max_length=20))]
    state.add_model(ModelState("shop", "Order", fields))
    migration = migrations.Migration("0002_more", "shop")
    migration.operations = list(operations)
    for name, value in attributes.items():
        setattr(migration, name, value)
    return contractions(migration, state)


@pytest.mark.parametrize(
    "operation",
    [
        migrations.CreateModel("Item", [("id", models.BigAutoField(primary_key=True))]),
        migrations.AddField("order", "paid_at", models.DateTimeField(null=True)),
        migrations.AddField("order", "made_at", models.DateTimeField(db_default=Now())),
        migrations.AddIndex("order", models.Index(fields=["note"], name="order_note")),
        migrations.AlterField("order", "note", models.CharField(max_length=40, null=True, help_text="for the shop")),
        migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("order", "note")]),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_an_operation_that_expands_the_schema_passes(operation: Any) -> None:
    assert found(operation) == []


@pytest.mark.parametrize(
    "operation",
    [
        migrations.RemoveField("order", "note"),
        migrations.DeleteModel("Order"),
        migrations.RenameField("order", "note", "remark"),
        migrations.AddField("order", "total", models.IntegerField(default=0)),
        migrations.AlterField("order", "note", models.CharField(max_length=10)),
        migrations.AlterField("order", "note", models.IntegerField()),
        migrations.AddConstraint("order", models.UniqueConstraint(fields=["note"], name="one")),
        migrations.SeparateDatabaseAndState(database_operations=[migrations.RemoveField("order", "note")]),
        migrations.RunPython(lambda apps, editor: None),
        migrations.RunSQL("TRUNCATE shop_order"),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_an_operation_that_contracts_the_schema_is_found(operation: Any) -> None:
    assert len(found(operation)) == 1


def test_earlier_operations_of_the_same_migration_count() -> None:
    added = migrations.AddField("order", "paid", models.CharField(max_length=5, null=True))
    assert found(added, migrations.AlterField("order", "paid", models.CharField(max_length=9, null=True))) == []
    assert len(found(added, migrations.AlterField("order", "paid", models.CharField(max_length=9)))) == 1


def test_an_author_can_declare_that_a_migration_expands() -> None:
    assert found(migrations.RunSQL("UPDATE shop_order SET note = ''"), expands=True) == []


def test_the_last_migrations_of_a_release_are_listed_without_database_or_secrets() -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "schema", "leaves"], cwd=APP, env={}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert {"auth", "image_editor"} <= json.loads(ran.stdout).keys()


@pytest.mark.django_db(transaction=True)
def test_migrations_are_reversed_to_an_earlier_release_and_applied_again(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = schema("leaves")
    assert schema("plan") == {"fresh": False, "pending": {}}
    nothing = {"migrations": [], "contract": [], "irreversible": []}
    assert schema("back", stdin=json.dumps(leaves), monkeypatch=monkeypatch) == nothing
    earlier = json.dumps(leaves | {"sessions": None})
    wanted = nothing | {"migrations": ["sessions.0001_initial"]}
    assert schema("back", stdin=earlier, monkeypatch=monkeypatch) == wanted
    assert "django_session" in connection.introspection.table_names()
    assert schema("back", "--apply", stdin=earlier, monkeypatch=monkeypatch) == wanted
    assert "django_session" not in connection.introspection.table_names()
    assert schema("plan")["pending"] == {"sessions.0001_initial": []}
    assert schema("migrate") == {"fresh": False, "pending": {}}
    with pytest.raises(CommandError, match=r"does not know image_editor.0999_later"):
        schema("back", stdin=json.dumps(leaves | {"image_editor": "0999_later"}), monkeypatch=monkeypatch)


@pytest.mark.django_db(transaction=True)
def test_only_one_process_migrates_at_a_time(clean: None) -> None:
    from image_editor.management.commands.schema import LOCK

    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        with pytest.raises(CommandError, match="somebody else"):
            schema("migrate")
        with other.cursor() as cursor:  # closing the connection releases the lock only some time later
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    finally:
        other.close()
    schema("migrate")
