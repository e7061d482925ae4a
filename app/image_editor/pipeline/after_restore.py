"""After a restore the database, the broker, the cache and the files are of different moments: make them agree.

Nothing that was accepted is dropped in silence. What can be mended is mended, the rest is in the report. Workers and
the API must be stopped meanwhile.
"""

import base64
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import redis
from django.contrib.auth import get_user_model
from django.utils.dateparse import parse_datetime

from backend.celery import app
from image_editor.models import UNFINISHED, Callback, Edit, Status
from image_editor.pipeline import publisher, state_cache

QUEUES = ("edit", "batch", "callback")
AT_ONCE = 1000


@dataclass
class Report:
    """Ids of edits, sorted; names of files. Everything empty: all of one moment."""

    recovered: list[str] = field(default_factory=list)  # the row was gone, and was made again from its message
    lost: list[str] = field(default_factory=list)  # accepted after the restored moment, and must be submitted again
    requeued: list[str] = field(default_factory=list)  # the row is unfinished, its message was gone
    callbacks_dropped: int = 0  # messages about rows that are gone
    cached_forgotten: int = 0  # documents in the state_cache, which may tell of another time
    results_without_rows: list[str] = field(default_factory=list)
    rows_without_results: list[str] = field(default_factory=list)  # succeeded, but the picture is not there


@dataclass(frozen=True)
class Message:
    raw: bytes
    queue: str
    task_id: str
    task: str
    payload: Any

    @classmethod
    def load(cls, raw: bytes, queue: str) -> "Message":
        document = json.loads(raw)
        headers = document["headers"]
        (payload, *_), *_ = json.loads(base64.b64decode(document["body"]))
        return cls(raw, queue, headers["id"], headers["task"], payload)


def reconcile(files: Collection[str] | None = None) -> Report:
    """Compare and mend; ``files`` are the names in the media store, if they are known."""
    report = Report()
    with app.connection_or_acquire() as connection:
        broker = connection.default_channel.client
        messages = list(_messages(broker))
        _edits(broker, [message for message in messages if message.task in publisher.EDIT_TASKS.values()], report)
        _callbacks(broker, [message for message in messages if message.queue == "callback"], report)
    known_gone = set(_forget_documents(report))
    if files is not None:
        known_gone |= _compare_files(files, report)
    report.lost = sorted({*report.lost, *known_gone} - {*report.recovered})
    return report


def _messages(broker: Any) -> Iterator[Message]:
    """All that wait. What a worker had taken waits again: the worker is stopped, and delivers nothing any more."""
    for tag, entry in broker.hgetall("unacked").items():
        document, _exchange, queue = json.loads(entry)
        document["headers"]["redelivered"] = document["properties"]["delivery_info"]["redelivered"] = True
        with broker.pipeline() as pipe:
            pipe.rpush(queue, json.dumps(document)).hdel("unacked", tag).zrem("unacked_index", tag).execute()
    for queue in QUEUES:
        for raw in broker.lrange(queue, 0, -1):
            yield Message.load(raw, queue)


def _edits(broker: Any, messages: list[Message], report: Report) -> None:
    there = _existing(Edit, [message.task_id for message in messages])
    users = set(get_user_model().objects.values_list("pk", flat=True))
    for message in messages:
        if message.task_id in there:
            continue
        if _recover(message, users):
            report.recovered.append(message.task_id)
            there.add(message.task_id)
        else:
            broker.lrem(message.queue, 0, message.raw)
            report.lost.append(message.task_id)
    present = {message.task_id for message in messages}
    stranded = [
        str(pk)
        for pk in Edit.objects.filter(status__in=UNFINISHED).values_list("pk", flat=True)
        if str(pk) not in present
    ]
    for some in _some(stranded):
        Edit.objects.filter(pk__in=some).update(
            status=Status.ACCEPTED, dispatched_at=None, lease_expires_at=None, retry_at=None
        )
    # A claim of the old time is nobody's: its worker was stopped.
    Edit.objects.filter(status=Status.PROCESSING).update(status=Status.QUEUED, lease_expires_at=None)
    report.recovered.sort()
    report.requeued = sorted(stranded)


def _recover(message: Message, users: set[int]) -> bool:
    """The row again, from a message that carries it all. Not an item of a batch: how many there were is not in it."""
    payload = message.payload
    if not isinstance(payload, dict) or payload.get("batch_id") or payload["user_id"] not in users:
        return False
    accepted_at = parse_datetime(payload["accepted_at"])
    Edit.objects.create(
        pk=message.task_id,
        user_id=payload["user_id"],
        prompt=payload["prompt"],
        image_url=payload["image_url"],
        callback_url=payload["callback_url"],
        accepted_at=accepted_at,
        status=Status.QUEUED,
        dispatched_at=accepted_at,
        dispatches=1,
    )
    return True


def _callbacks(broker: Any, messages: list[Message], report: Report) -> None:
    there = _existing(Callback, [str(message.payload) for message in messages])
    for message in messages:
        if str(message.payload) not in there:
            broker.lrem(message.queue, 0, message.raw)
            report.callbacks_dropped += 1


def _forget_documents(report: Report) -> list[str]:
    """Drop what is cached, of which a part is of another time; the ids of edits that only the cache still knew."""
    named: set[str] = set()
    for client, patterns in _caches():
        for pattern in patterns:
            keys = list(client.scan_iter(pattern, count=AT_ONCE))
            named |= {key.decode()[len(pattern) - 1 :] for key in keys}
            report.cached_forgotten += sum(client.delete(*some) for some in _some(keys))
    ids = {name for name in named if _is_id(name)}
    return sorted(ids - _existing(Edit, list(ids)))


def _caches() -> list[tuple[redis.Redis, list[str]]]:
    caches = [(state_cache.client, ["edit:final:*", "edit:now:*"])]
    if hasattr(app.backend, "client"):  # the result backend, where it is in use
        caches.append((app.backend.client, ["celery-task-meta-*"]))
    return caches


def _compare_files(files: Collection[str], report: Report) -> set[str]:
    """Results without rows and rows without results. Returns the ids that only a file still tells of."""
    owners = {name: owner for name in files if (owner := _owner(name))}
    there = _existing(Edit, list(owners.values()))
    report.results_without_rows = sorted(
        name for name, owner in owners.items() if owner not in there and name.startswith("results/")
    )
    succeeded = Edit.objects.filter(status=Status.SUCCEEDED).values_list("pk", "result_name")
    report.rows_without_results = sorted(str(pk) for pk, name in succeeded.iterator() if name not in files)
    return {owner for owner in owners.values() if owner not in there}


def _owner(name: str) -> str:
    """The edit of results/<id>/<attempt>.<extension> or uploads/<date>/<id>.<extension>; empty if it names none."""
    parts = name.split("/")
    owner = parts[1] if parts[0] == "results" and len(parts) > 2 else parts[-1].partition(".")[0]
    return owner if _is_id(owner) else ""


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _existing(model: type[Edit | Callback], ids: list[str]) -> set[str]:
    """Those that have a row."""
    return {str(pk) for some in _some(ids) for pk in model.objects.filter(pk__in=some).values_list("pk", flat=True)}


def _some[T](values: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]
