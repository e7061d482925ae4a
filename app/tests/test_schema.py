"""Migrations of a release: which of them the previous release can work with, and which a rollback reverses."""

import importlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import APP
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, migrations, models
from django.db.migrations.state import ModelState, ProjectState
from django.db.models.functions import Now
from services import Services


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
        AddIndexConcurrently("order", models.Index(fields=["note"], name="order_note")),
        ValidateConstraint("order", "note_known"),
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
        AddConstraintNotValid("order", models.CheckConstraint(condition=~models.Q(note=""), name="note_known")),
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
def test_the_plan_names_what_the_previous_release_cannot_work_with_and_what_locks_a_table_for_long(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = importlib.import_module("image_editor.migrations.0002_fewer_indexes").Migration
    call_command("migrate", "image_editor", "0001", verbosity=0)
    index = migrations.AddIndex("edit", models.Index(fields=["prompt"], name="edit_of_prompt"))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(last, "operations", [migrations.RemoveField("edit", "prompt"), *last.operations])
            patched.setattr(last, "expands", False)
            [why] = schema("plan")["pending"]["image_editor.0002_fewer_indexes"][:1]
            assert "Remove field prompt" in why
            patched.setattr(last, "operations", [index])
            patched.setattr(last, "expands", True)
            [why] = schema("plan")["pending"]["image_editor.0002_fewer_indexes"]
            assert "AddIndexConcurrently" in why
    finally:
        call_command("migrate", verbosity=0)


@pytest.fixture
def reader(clean: None, services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """An open transaction that reads users, as a long backup would. The last migration of that table is pending."""
    call_command("migrate", "auth", "0011", verbosity=0)
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "options", f"{options['options']} -c lock_timeout=200ms")
    connection.close()
    with psycopg.connect(host="127.0.0.1", port=services.postgres_port, user="super", dbname="app") as other:
        other.execute("LOCK TABLE auth_user IN ACCESS SHARE MODE")
        yield other
    connection.close()
    call_command("migrate", verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_a_migration_that_waits_for_a_lock_lets_writers_pass(
    reader: psycopg.Connection, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration is tried again until the reader is gone. A writer, which queues behind it, waits for one try."""
    from image_editor.management.commands import schema as command

    monkeypatch.setattr(command, "PAUSES", (0.5,) * 60)
    longest, end = 0.0, threading.Event()

    def write() -> None:
        nonlocal longest
        with psycopg.connect(
            host="127.0.0.1", port=services.postgres_port, user="super", dbname="app", autocommit=True
        ) as client:
            while not end.wait(0.01):
                began = time.monotonic()
                client.execute("UPDATE auth_user SET first_name = '' WHERE id = 0")
                longest = max(longest, time.monotonic() - began)

    writer, leave = threading.Thread(target=write), threading.Timer(3, reader.rollback)
    writer.start()
    leave.start()
    began = time.monotonic()
    try:
        assert schema("migrate")["pending"] == {}
    finally:
        end.set()
        writer.join()
        leave.join()
    assert time.monotonic() - began > 2, "the migration did not wait for the reader"
    assert 0.1 < longest < 1.5


@pytest.mark.django_db(transaction=True)
def test_a_migration_that_gets_no_lock_fails(reader: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.management.commands import schema as command

    monkeypatch.setattr(command, "PAUSES", (0.1,))
    with pytest.raises(OperationalError, match="lock timeout"):
        schema("migrate")
    reader.rollback()
    assert schema("migrate")["pending"] == {}


@pytest.mark.django_db(transaction=True)
def test_an_interrupted_build_of_an_index_is_started_again(clean: None, services: Services) -> None:
    """PostgreSQL leaves an invalid index, which would be taken for the one to build."""
    call_command("migrate", "image_editor", "0001", verbosity=0)
    services.psql(
        "CREATE INDEX edit_of_batch ON edit (attempt)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'edit_of_batch'::regclass",
        database="app",
    )
    assert schema("migrate")["pending"] == {}
    asked = "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index WHERE indexrelid = 'edit_of_batch'::regclass"
    [(definition, valid)] = services.psql(asked, database="app")
    assert "(batch_id)" in definition
    assert valid


@pytest.mark.django_db(transaction=True)
def test_a_concurrent_build_waits_for_transactions_without_a_timeout_of_locks(
    clean: None, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_editor.management.commands import schema as command

    call_command("migrate", "image_editor", "0001", verbosity=0)
    monkeypatch.setattr(command, "PAUSES", ())
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "options", f"{options['options']} -c lock_timeout=200ms")
    connection.close()
    with psycopg.connect(host="127.0.0.1", port=services.postgres_port, user="super", dbname="app") as writer:
        writer.execute("UPDATE edit SET dispatches = 0")
        leave = threading.Timer(1.5, writer.commit)
        leave.start()
        began = time.monotonic()
        assert schema("migrate")["pending"] == {}
        assert time.monotonic() - began > 1, "the migration did not wait for the writer"
        leave.join()
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("200ms",), "later statements have no timeout"
    connection.close()


@pytest.mark.parametrize("command", ["migrate", "schema"])
def test_migrations_wait_for_locks_for_a_short_time_only(command: str) -> None:
    ask = f"import sys; sys.argv = ['manage.py', '{command}']; from backend.settings import DATABASES; print(DATABASES)"
    ran = subprocess.run([sys.executable, "-c", ask], cwd=APP, capture_output=True, text=True, check=True)
    assert "lock_timeout=2s" in ran.stdout
    assert "statement_timeout" not in ran.stdout


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
