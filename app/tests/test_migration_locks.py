"""Clients write while a release migrates. The gate refuses the operations that would keep them waiting."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.postgres.functions import RandomUUID
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db import connection, migrations, models, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ModelState, ProjectState
from django.db.models.functions import Now
from services import Services

from image_editor.management.locks import long_locks

ROWS = 1_000_000
SHORT = 0.5  # seconds that a write may take on a busy machine
FIELDS = {
    "id": models.BigAutoField(primary_key=True),
    "note": models.CharField(max_length=20),
    "amount": models.IntegerField(null=True),
}
SOME = models.Q(amount__gte=0)


def migration(*operations: Any, atomic: bool = True) -> migrations.Migration:
    found = migrations.Migration("0002_more", "shop")
    found.operations, found.atomic = list(operations), atomic
    return found


def before() -> ProjectState:
    state = ProjectState()
    state.add_model(ModelState("shop", "Order", list(FIELDS.items())))
    return state


@pytest.fixture(scope="module")
def orders(services: Services, django_db_setup: None, django_db_blocker: Any) -> Iterator[Services]:
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute(
                "CREATE TABLE shop_order (id bigint PRIMARY KEY, note varchar(20) NOT NULL, amount integer);"
                f"INSERT INTO shop_order SELECT n, 'order ' || n, n FROM generate_series(1, {ROWS}) n;"
                "ALTER TABLE shop_order ADD CONSTRAINT positive CHECK (amount >= 0) NOT VALID"
            )
        yield services
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE shop_order; RESET statement_timeout")


@contextlib.contextmanager
def writers(services: Services) -> Iterator[list[float]]:
    """Two clients that write one row after the other. The seconds that each write took."""
    seconds: list[float] = []
    end = threading.Event()

    def write() -> None:
        with psycopg.connect(
            host="127.0.0.1", port=services.postgres_port, user="super", dbname="app", autocommit=True
        ) as client:
            while not end.wait(0.002):
                began = time.monotonic()
                client.execute("UPDATE shop_order SET note = note WHERE id = %s", [random.randint(1, ROWS)])
                seconds.append(time.monotonic() - began)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        while not seconds:
            time.sleep(0.01)
        yield seconds
    finally:
        end.set()
        for thread in threads:
            thread.join()


def applied(services: Services, step: migrations.Migration) -> tuple[float, float]:
    """Apply the migration beside the writers, and roll it back. The longest write, and how long the migration took."""
    with writers(services) as seconds:
        began = time.monotonic()
        with transaction.atomic() if step.atomic else contextlib.nullcontext():
            with connection.schema_editor(atomic=step.atomic) as editor:
                step.apply(before(), editor)
            if step.atomic:
                transaction.set_rollback(True)
        took = time.monotonic() - began
    if not step.atomic:
        with connection.schema_editor(atomic=False) as editor:
            step.unapply(before(), editor)
    print(f"{step.operations[0].describe()}: {took:.3f} s, longest write {max(seconds):.3f} s of {len(seconds)}")
    return max(seconds), took


QUICK = {
    "index": migration(AddIndexConcurrently("order", models.Index(fields=["note"], name="quick")), atomic=False),
    "constraint": migration(AddConstraintNotValid("order", models.CheckConstraint(condition=SOME, name="quick_check"))),
    "validation": migration(ValidateConstraint("order", "positive")),
    "column": migration(migrations.AddField("order", "paid", models.DateTimeField(null=True))),
    "default": migration(migrations.AddField("order", "tries", models.IntegerField(db_default=0))),
    "time": migration(migrations.AddField("order", "made_at", models.DateTimeField(db_default=Now()))),
    "longer": migration(migrations.AlterField("order", "note", models.CharField(max_length=40))),
    "nullable": migration(migrations.AlterField("order", "note", models.CharField(max_length=40, null=True))),
}
LONG = {
    "index": migration(migrations.AddIndex("order", models.Index(fields=["note"], name="long"))),
    "check": migration(
        migrations.AddConstraint("order", models.CheckConstraint(condition=models.Q(id__gte=0), name="long_check"))
    ),
    "unique": migration(migrations.AddConstraint("order", models.UniqueConstraint(fields=["id"], name="long_unique"))),
    "indexed column": migration(migrations.AddField("order", "code", models.IntegerField(null=True, db_index=True))),
    "checked column": migration(migrations.AddField("order", "size", models.PositiveIntegerField(null=True))),
    "volatile": migration(migrations.AddField("order", "key", models.UUIDField(db_default=RandomUUID()))),
    "generated": migration(
        migrations.AddField(
            "order",
            "double",
            models.GeneratedField(
                expression=models.F("amount") * 2, output_field=models.IntegerField(), db_persist=True
            ),
        )
    ),
    "not null": migration(migrations.AlterField("order", "amount", models.IntegerField(default=0))),
    "type": migration(migrations.AlterField("order", "amount", models.BigIntegerField(null=True))),
}


@pytest.mark.parametrize(
    ("step", "instead"),
    [
        (LONG["index"], "AddIndexConcurrently"),
        (LONG["check"], "AddConstraintNotValid, and ValidateConstraint"),
        (LONG["unique"], "CREATE UNIQUE INDEX CONCURRENTLY"),
        (LONG["checked column"], "a type that has no check"),
        (LONG["volatile"], "filled in batches"),
        (LONG["not null"], "AddConstraintNotValid"),
        (migration(migrations.AlterUniqueTogether("order", {("note", "amount")})), "CREATE UNIQUE INDEX CONCURRENTLY"),
        (migration(migrations.AlterField("order", "note", models.CharField(max_length=10))), "filled in batches"),
        (migration(migrations.AlterField("order", "note", models.CharField(max_length=20, unique=True))), "UNIQUE"),
        (migration(migrations.AddField("order", "slug", models.TextField(null=True, unique=True))), "UNIQUE"),
        (
            migration(migrations.AddField("order", "of", models.ForeignKey("order", models.CASCADE, null=True))),
            "db_index=False",
        ),
        (
            migration(QUICK["column"].operations[0], ValidateConstraint("order", "positive")),
            "a migration of its own",
        ),
        (migration(migrations.SeparateDatabaseAndState(LONG["index"].operations)), "AddIndexConcurrently"),
    ],
)
def test_the_gate_says_what_to_write_instead(step: migrations.Migration, instead: str) -> None:
    [why] = long_locks(step, before())
    assert "which locks the table for long" in why
    assert instead in why.partition(": write ")[2]


@pytest.mark.parametrize(
    "step",
    [
        migration(
            migrations.CreateModel("Item", [("id", models.BigAutoField(primary_key=True))]),
            migrations.AddIndex("item", models.Index(fields=["id"], name="item_of_id")),
            migrations.AddField("item", "key", models.UUIDField(unique=True)),
            migrations.AlterUniqueTogether("item", {("id", "key")}),
        ),
        migration(migrations.SeparateDatabaseAndState(state_operations=LONG["index"].operations)),
        migration(
            migrations.AddField(
                "order", "of", models.ForeignKey("order", models.CASCADE, null=True, db_index=False, related_name="+")
            )
        ),
        migration(migrations.AlterField("order", "note", models.CharField(max_length=20, db_default=""))),
        migration(migrations.RemoveField("order", "note")),
        migration(ValidateConstraint("order", "a"), ValidateConstraint("order", "b"), atomic=False),
    ],
)
def test_the_gate_lets_through_what_touches_no_row(step: migrations.Migration) -> None:
    assert long_locks(step, before()) == []


def test_no_migration_of_this_application_locks_a_table_for_long() -> None:
    loader = MigrationLoader(None)
    own = [step for (label, _), step in loader.disk_migrations.items() if label == "image_editor"]
    assert len(own) > 1
    for step in own:
        state = loader.project_state((step.app_label, step.name), at_end=False)
        assert long_locks(step, state) == [], step


@pytest.mark.parametrize("step", LONG.values(), ids=LONG)
def test_what_the_gate_refuses_keeps_writers_waiting(orders: Services, step: migrations.Migration) -> None:
    assert len(long_locks(step, before())) == 1
    longest, took = applied(orders, step)
    assert longest > took / 2


@pytest.mark.parametrize("step", QUICK.values(), ids=QUICK)
def test_what_the_gate_lets_through_keeps_no_writer_waiting(orders: Services, step: migrations.Migration) -> None:
    """On a busy machine a write may have to wait for a processor, but not three times during the same migration."""
    assert long_locks(step, before()) == []
    assert any(applied(orders, step)[0] < SHORT for _ in range(3))
