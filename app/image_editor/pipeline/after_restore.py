"""After a restore, database, broker, cache and files are of different moments: compare them and repair what differs.

No accepted edit disappears in silence. What cannot be repaired is in the report. Workers and the API must be stopped
meanwhile.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import batched

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Max
from django.utils.dateparse import parse_datetime

from image_editor.models import UNFINISHED, Callback, Edit, MediaStore, Status, reference_in
from image_editor.pipeline import broker, queues, state_cache, transitions
from image_editor.pipeline.broker import StoredMessage
from image_editor.pipeline.message import EditMessage
from image_editor.pipeline.rows import AT_ONCE, existing, owners
from image_editor.storage import names

REQUEST = timedelta(minutes=2)  # at most, from its file in the store to its row


@dataclass
class Report:
    """Ids of edits and names of files, sorted. Every list is empty if everything is of the same moment."""

    recovered: list[str] = field(default_factory=list)  # the row was missing, and was made again from its message
    lost: list[str] = field(default_factory=list)  # accepted after the restored moment; clients must submit them again
    requeued: list[str] = field(default_factory=list)  # the row is unfinished and its message was missing
    callbacks_dropped: int = 0  # messages about callbacks whose rows are missing
    cached_forgotten: int = 0  # cached documents; each may describe another moment
    results_without_rows: list[str] = field(default_factory=list)
    rows_without_results: list[str] = field(default_factory=list)  # succeeded, but the result is not stored


def reconcile(files: Collection[str] | None = None) -> Report:
    """Compare and repair. ``files`` are the names in the media store; None leaves the media store out."""
    report = Report()
    with broker.client() as client:
        broker.return_unacknowledged(client)
        messages = [message for queue in queues.RECONCILED for message in broker.waiting(client, queue)]
        _edits(client, [message for message in messages if message.task in queues.EDIT_TASKS], report)
        _callbacks(client, [message for message in messages if message.queue == queues.CALLBACK.name], report)
    known_gone = set(_forget_documents(report))
    if files is not None:
        known_gone |= _compare_files(files, report)
    # Files are restored on one media host, so all hosts are compared. They stay complete, so nothing is removed: the
    # wrong backup may have been restored.
    MediaStore.objects.update(compared_to="")
    report.lost = sorted({*report.lost, *known_gone} - {*report.recovered})
    return report


def _edits(client: redis.Redis, messages: list[StoredMessage], report: Report) -> None:
    """Repair rows from messages, and have the reconciler publish the messages of rows that have none."""
    there = existing(Edit, [message.task_id for message in messages])
    users = set(get_user_model().objects.values_list("pk", flat=True))
    for message in messages:
        if message.task_id in there:
            continue
        if _recover(message, users):
            report.recovered.append(message.task_id)
            there.add(message.task_id)
        else:
            broker.remove(client, message)
            report.lost.append(message.task_id)
    present = {message.task_id for message in messages}
    stranded = [
        str(pk)
        for pk in Edit.objects.filter(status__in=UNFINISHED).values_list("pk", flat=True)
        if str(pk) not in present
    ]
    for some in batched(stranded, AT_ONCE, strict=False):
        Edit.objects.filter(pk__in=some).update(
            status=Status.ACCEPTED, dispatched_at=None, lease_expires_at=None, retry_at=None
        )
    # The restore ended these attempts, not the edits. An edit that nobody has claimed yet has all its attempts.
    transitions.forgive(Edit.objects.filter(status__in=UNFINISHED, attempt__gt=0))
    # The worker of an old claim was stopped, so nobody holds the claim.
    Edit.objects.filter(status=Status.PROCESSING).update(status=Status.QUEUED, lease_expires_at=None)
    report.recovered.sort()
    report.requeued = sorted(stranded)


def _recover(message: StoredMessage, users: set[int]) -> bool:
    """Make the row of a message again. False if the message does not say enough, or its user is missing.

    The message of a batch's item does not say enough either: it does not tell how many items the batch has.
    """
    found = EditMessage.read(message.argument)
    if found is None or found.batch_id or not found.accepted_at or found.user_id not in users:
        return False
    accepted_at = parse_datetime(found.accepted_at)
    Edit.objects.create(
        pk=message.task_id,
        user_id=found.user_id,
        prompt=found.prompt,
        output=found.output,
        image_url=found.image_url,
        callback_url=found.callback_url,
        metadata=found.metadata,
        reference=reference_in(found.metadata),
        accepted_at=accepted_at,
        status=Status.QUEUED,
        dispatched_at=accepted_at,
        dispatches=1,
    )
    return True


def _callbacks(client: redis.Redis, messages: list[StoredMessage], report: Report) -> None:
    """Drop the messages of callbacks that have no row."""
    there = existing(Callback, [str(message.argument) for message in messages])
    for message in messages:
        if str(message.argument) not in there:
            broker.remove(client, message)
            report.callbacks_dropped += 1


def _forget_documents(report: Report) -> list[str]:
    """Delete every cached document. Returns the ids of edits that only the cache still knew."""
    named: set[str] = set()
    for client, patterns in _caches():
        for pattern in patterns:
            keys = list(client.scan_iter(pattern, count=AT_ONCE))
            named |= {key.decode()[len(pattern) - 1 :] for key in keys}
            report.cached_forgotten += sum(client.delete(*some) for some in batched(keys, AT_ONCE, strict=False))
    ids = {name for name in named if names.is_id(name)}
    return sorted(ids - existing(Edit, ids))


def _caches() -> list[tuple[redis.Redis, list[str]]]:
    """The clients of every cache, each with the patterns of the keys that are about edits."""
    caches = [(state_cache.client, ["edit:final:*", "edit:now:*"])]
    if settings.RESULT_BACKEND_ENABLED:
        results = redis.Redis.from_url(settings.RESULT_URL, socket_timeout=5, socket_connect_timeout=5)
        caches.append((results, ["celery-task-meta-*"]))
    return caches


def _compare_files(files: Collection[str], report: Report) -> set[str]:
    """Report results without rows, and rows without results. Returns ids that only a file has and that may be lost."""
    owned = {name: owner for name in files if (owner := names.owner(name))}
    there = owners(owned.values())
    report.results_without_rows = sorted(
        name for name, owner in owned.items() if owner not in there and name.startswith("results/")
    )
    succeeded = Edit.objects.filter(status=Status.SUCCEEDED).values_list("pk", "result_name")
    report.rows_without_results = sorted(str(pk) for pk, name in succeeded.iterator() if name not in files)
    newest = Edit.objects.aggregate(at=Max("accepted_at"))["at"]
    # A row that could have been there by then is missing: a crash left the file, or the edit was removed.
    settled = names.minute(newest - REQUEST) if newest else ""
    return {owner for name, owner in owned.items() if owner not in there and not "" < names.minute_of(name) < settled}
