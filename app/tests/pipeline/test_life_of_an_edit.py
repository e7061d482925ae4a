"""Whatever happens to an edit, in whatever order: one holder at a time, one end, one result, one callback.

A state machine of Hypothesis drives the real statements on PostgreSQL. Broker and processes are simulated: a message is
an entry of a list, and time passes by moving the row's times into the past.
"""

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from conftest import make_user
from django.db import connection
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

pytestmark = pytest.mark.django_db(transaction=True)

ATTEMPTS_MAX = 5
TIMES = ("accepted_at", "dispatched_at", "lease_expires_at", "requeued_at", "retry_at")
HOUR = 3600
# The claim of the previous release, which knows neither holders nor faults.
OLD_CLAIM = """
UPDATE edit
   SET status = 'processing', attempt = attempt + 1, started_at = COALESCE(started_at, now()),
       lease_expires_at = now() + interval '135 s'
 WHERE id = %s AND attempt < 5
   AND (status IN ('accepted', 'queued') OR status = 'processing' AND lease_expires_at < now())
RETURNING attempt
"""


@dataclass
class Process:
    """A pool process: on a host, at most at one attempt, for which it holds a message or no longer holds it."""

    name: str  # <host>:<number>
    alive: bool = True
    claim: Any = None
    message: bool = False


class Life(RuleBasedStateMachine):
    user: Any  # set by the test, as is the next
    monkeypatch: pytest.MonkeyPatch

    @initialize()
    def accept(self) -> None:
        from django.conf import settings as django

        from image_editor.models import Edit
        from image_editor.pipeline import broker, holder, publisher, state_cache
        from image_editor.pipeline.message import EditMessage

        self.acting = ""
        self.started = 0
        self.processes = [self._process(host) for host in "aab"]
        patched = {
            (django, "TASK_ATTEMPTS_MAX"): ATTEMPTS_MAX,
            (holder, "me"): lambda: self.acting,
            (holder, "gone"): lambda name: name[0] == self.acting[0] and name not in self._alive(),
            (publisher, "publish_edits"): self._publish,
            (publisher, "publish_callbacks"): len,
            (broker, "client"): contextlib.nullcontext,
            (broker, "oldest_waiting"): lambda *_: [str(self.pk)] * len(self.queue),
            (broker, "unacknowledged"): lambda *_: [str(self.pk) for process in self.processes if process.message],
            (state_cache.states, "forget"): lambda _: None,
        }
        for (target, name), value in patched.items():
            self.monkeypatch.setattr(target, name, value)
        Edit.objects.all().delete()  # of the run before, which may have failed
        url = "https://example.org/a"
        edit = Edit.objects.create(
            user=self.user, prompt="sepia", image_url=url, callback_url=url, accepted_at=timezone.now(),
            status="queued", dispatched_at=timezone.now(), dispatches=1,
        )  # fmt: skip
        self.pk, self.message = edit.pk, EditMessage.of(edit, "alice")
        self.queue = ["fresh"]  # the messages: fresh, published again, or redelivered
        self.status, self.result, self.attempt = "", "", 0  # "": not ended
        self.backup()

    # The simulated world ---------------------------------------------------------------------------------------------

    def _process(self, host: str) -> Process:
        self.started += 1
        return Process(f"{host}:{self.started}")

    def _alive(self) -> list[str]:
        return [process.name for process in self.processes if process.alive]

    def _publish(self, messages: list[Any], queue: Any) -> int:
        self.queue += ["again"] * sum(message.task_id == str(self.pk) for message in messages)
        return len(messages)

    def _row(self) -> Any:
        from image_editor.models import Edit

        return Edit.objects.get(pk=self.pk)

    def _end(self, status: str, ended: bool, result: str = "") -> None:
        """Note that a call ended the edit. Only one may."""
        if ended:
            assert not self.status, f"{self.status}, and then {status}"
            self.status, self.result = status, result

    def _replace(self, process: Process) -> None:
        process.alive = False
        self.processes[self.processes.index(process)] = self._process(process.name[0])

    # What happens ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 2), reply_lost=st.booleans())
    def deliver(self, which: int, reply_lost: bool) -> None:
        """A process takes the next message, unless it is busy."""
        from image_editor.pipeline import transitions

        process = self.processes[which]
        if process.claim:
            return
        row, redelivered, self.acting = self._row(), self.queue.pop(0) == "redelivered", process.name
        claim = transitions.claim(str(self.pk), redelivered)
        if reply_lost:
            assert transitions.claim(str(self.pk), redelivered) == claim
        if claim:
            held = row.status == "processing" and row.lease_expires_at > timezone.now()
            others = [other for other in self.processes if other.claim]
            assert not (held and any(other.claim.attempt == row.attempt for other in others)), "two holders"
            assert claim.number not in [other.claim.number for other in others], "two writers of one file"
            process.claim, process.message = claim, True

    @precondition(lambda self: self.queue[:1] == ["fresh"])
    @rule(which=st.integers(0, 2))
    def deliver_an_upload(self, which: int) -> None:
        """A process edits without a claim."""
        from image_editor.pipeline.transitions import Claim

        process = self.processes[which]
        if not process.claim:
            self.queue.pop(0)
            process.claim, process.message = Claim(0), True

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 2))
    def deliver_to_a_worker_of_the_previous_release(self, which: int) -> None:
        from image_editor.pipeline.transitions import Claim

        process = self.processes[which]
        if process.claim:
            return
        self.queue.pop(0)
        with connection.cursor() as cursor:
            cursor.execute(OLD_CLAIM, [self.pk])
            if found := cursor.fetchone():
                process.claim, process.message = Claim(found[0], -self.started), True
                self.started += 1

    @rule()
    def cut_the_connection_to_the_broker(self) -> None:
        """The broker delivers again what processes hold. The processes go on."""
        for process in self.processes:
            if process.message:
                process.message = False
                self.queue.append("redelivered")

    @rule(which=st.integers(0, 2), message_lost=st.booleans())
    def kill(self, which: int, message_lost: bool) -> None:
        process = self.processes[which]
        if process.message and not message_lost:
            self.queue.append("redelivered")
        self._replace(process)

    @rule()
    def lose_the_queue(self) -> None:
        self.queue.clear()

    @rule(which=st.integers(0, 2), how=st.sampled_from(["succeed", "fail", "fault", "bug"]), reply_lost=st.booleans())
    def finish(self, which: int, how: str, reply_lost: bool) -> None:
        from image_editor.imaging.engines import Edited
        from image_editor.pipeline import transitions

        process = self.processes[which]
        if not process.claim:
            return
        claim, process.claim, process.message = process.claim, None, False
        if not claim.attempt and how != "succeed":
            self.acting = process.name
            claim = transitions.claim(str(self.pk), False)
            if claim is None:
                return
        name = f"results/{claim.number}.jpg"
        for _ in range(1 + reply_lost):
            match how:
                case "succeed":
                    edited = Edited(b"x", "jpg", "image/jpeg", 1, 1)
                    self._end("succeeded", transitions.succeed(self.message, claim, name, edited, False), name)
                case "fail":
                    self._end("failed", transitions.fail(self.message, claim, "too_slow", "the edit took too long"))
                case _:
                    transitions.postpone(self.message, claim, how == "fault")

    @rule(which=st.integers(0, 2))
    def renew(self, which: int) -> None:
        """A process whose lease is not renewed stops."""
        from image_editor.pipeline import transitions

        process = self.processes[which]
        if process.claim and process.claim.attempt and not transitions.renew(str(self.pk), process.claim):
            process.claim, process.message = None, False

    @rule(seconds=st.sampled_from([1, 30, 400, 2 * HOUR, 25 * HOUR]))
    def wait(self, seconds: int) -> None:
        from image_editor.models import Edit

        Edit.objects.filter(pk=self.pk).update(**{name: F(name) - timedelta(seconds=seconds) for name in TIMES})

    @rule()
    def reconcile(self) -> None:
        from image_editor.pipeline import reconciler

        self._end("failed", reconciler.reconcile()["abandoned"] > 0)

    @rule()
    def cancel(self) -> None:
        from image_editor.pipeline import transitions

        self._end("cancelled", transitions.cancel(self._row()))

    @rule()
    def requeue(self) -> None:
        from image_editor.pipeline import transitions

        if transitions.requeue(self._row()):
            assert self.status in ("failed", "cancelled")
            self.status = ""

    @rule(attempts_max=st.integers(1, ATTEMPTS_MAX))
    def change_the_limit(self, attempts_max: int) -> None:
        from django.conf import settings as django

        django.TASK_ATTEMPTS_MAX = attempts_max

    @rule()
    def backup(self) -> None:
        from image_editor.models import Callback, Edit

        tables = (Edit.objects.filter(pk=self.pk), Callback.objects.filter(edit=self.pk))
        self.saved = [list(table) for table in tables], self.status, self.result, self.attempt

    @rule()
    def restore(self) -> None:
        """The workers are stopped. The rows are of an earlier moment than the messages."""
        from image_editor.models import Callback, Edit
        from image_editor.pipeline import after_restore
        from image_editor.pipeline.broker import StoredMessage

        self.cut_the_connection_to_the_broker()
        for process in list(self.processes):
            self._replace(process)
        (edits, callbacks), self.status, self.result, self.attempt = self.saved
        Callback.objects.filter(edit=self.pk).delete()
        for row in (*edits, *callbacks):
            row.save()
        assert Edit.objects.filter(pk=self.pk).exists()
        stored = StoredMessage("", "edit", str(self.pk), "image_editor.tasks.edit", None)
        after_restore._edits(None, [stored] * len(self.queue), after_restore.Report())

    # What always holds -----------------------------------------------------------------------------------------------

    @invariant()
    def one_end(self) -> None:
        from image_editor.models import Callback

        if not hasattr(self, "pk"):
            return
        row = self._row()
        assert row.attempt >= self.attempt, "the fence went back"
        self.attempt = row.attempt
        ended = row.status in ("succeeded", "failed", "cancelled")
        assert (row.status if ended else "") == self.status
        assert (row.result_name, bool(row.finished_at)) == (self.result, ended)
        assert Callback.objects.filter(edit=self.pk).count() == ended

    def teardown(self) -> None:
        """The edit ends, whatever its state: if all goes well now, if every attempt crashes, if a provider is gone."""
        if not hasattr(self, "pk"):
            return
        how = ("succeed", "crash", "fault")[self.started % 3]
        for process in list(self.processes):
            self._replace(process)
        self.queue.clear()
        for _ in range(20):
            self.wait(2 * HOUR)
            self.reconcile()
            while self.queue:
                self.deliver(0, False)
                self.kill(0, True) if how == "crash" else self.finish(0, how, False)
        self.one_end()
        assert self.status, f"for ever under way: {self._row().__dict__}"


def test_an_edit_always_ends_once(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_editor.pipeline import reconciler

    monkeypatch.setattr(reconciler.log, "disabled", True)
    Life.user, Life.monkeypatch = make_user("alice", "t" * 43), monkeypatch
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
