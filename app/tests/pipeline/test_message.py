"""The contract between releases that share a queue: every shape of message that was ever published is understood."""

import json
import uuid
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from conftest import APP, TOKEN, finished, make_user
from helpers import post, problem
from hypothesis import given
from hypothesis import strategies as st
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)

SHAPES = {path.stem: json.loads(path.read_text()) for path in (APP / "tests/data/messages").glob("*.json")}
# Whose prompt the worker follows: the message's, or the row's.
FOLLOWED = {
    "bare_id": "row",
    "the_plans": "message",
    "version_1_before_fresh": "message",
    "version_1": "message",
    "version_1_with_metadata": "message",
    "version_1_with_a_later_field": "message",
    "version_1_with_output": "message",
    "version_2": "row",  # it has all our fields, and some of them mean something else
}
EDIT = "0b9c3d52-6f0e-4f5e-9d0c-1c2b3a495867"
TEXTS = {name: st.text() for name in ("prompt", "image_url", "callback_url", "username", "batch_id")}
WIDE = "😀"  # one character, four bytes as UTF-8, twelve in JSON
LIMIT = 64 * 1024


def insert(edit_id: Any, user: Any, image_url: str = "https://images.example.org/row.jpg") -> Any:
    """The row of an edit that a message names. Its prompt differs from the messages', so a test sees what was read."""
    from django.utils import timezone

    from image_editor.models import Edit

    return Edit.objects.create(
        pk=edit_id,
        user=user,
        prompt="sepia",
        image_url=image_url,
        callback_url="https://client.example.org/done",
        accepted_at=timezone.now(),
    )


@pytest.fixture
def row(clean: None) -> Any:
    """The row of the edit that every file names."""
    return insert(EDIT, make_user("alice", TOKEN))


def ours(**fields: Any) -> Any:
    from image_editor.pipeline.message import EditMessage

    values = SHAPES["version_1"] | fields
    return EditMessage(**values)


def test_every_shape_has_an_expectation() -> None:
    assert SHAPES.keys() == FOLLOWED.keys()


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_is_understood(row: Any, shape: str, django_assert_num_queries: Any) -> None:
    from image_editor.pipeline.message import EditMessage

    with django_assert_num_queries(1 if FOLLOWED[shape] == "row" else 0):
        message = EditMessage.load(SHAPES[shape])
    assert message is not None
    assert (message.task_id, message.username) == (EDIT, "alice")
    assert message.prompt == ("sepia" if FOLLOWED[shape] == "row" else "灰度, rotate 90")
    assert message.callback_url == "https://client.example.org/done"
    assert message.fresh is False, "only the message itself can say that no worker has tried the edit"


def test_a_message_that_lacks_a_field_is_read_from_the_row(row: Any) -> None:
    from image_editor.pipeline.message import EditMessage

    fields = ("image_url", "prompt", "callback_url", "user_id", "username")
    for shape, field in [("version_1", "accepted_at"), *product(("version_1", "the_plans"), fields)]:
        incomplete = {name: value for name, value in SHAPES[shape].items() if name != field}
        message = EditMessage.load(incomplete)
        assert message is not None, field
        assert message.prompt == "sepia", f"a message without {field} was followed"


def test_the_row_is_read_although_the_connection_was_lost(row: Any, services: Services) -> None:
    from image_editor.pipeline.message import EditMessage

    services.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    message = EditMessage.load(EDIT)
    assert message is not None
    assert message.prompt == "sepia"


def test_a_worker_does_every_shape_from_one_queue(
    api: Any, user: Any, photo: bytes, files: Any, start: Callable
) -> None:
    """Releases share the queue while one replaces the other. The row asks for sepia, the messages for a rotation."""
    from backend.celery import app
    from image_editor.models import Edit

    image_url = files.serve("/photo.jpg", photo)
    edits = {}
    for name, shape in SHAPES.items():
        edits[name] = edit_id = str(insert(uuid.uuid4(), user, image_url).pk)
        own = {"task_id": edit_id, "image_url": image_url}
        sent = shape | {field: own[field] for field in own.keys() & shape.keys()} if shape != EDIT else edit_id
        app.send_task("image_editor.tasks.edit", (sent,), queue="edit")
    start("edit")
    for name, edit_id in edits.items():
        assert finished(api, edit_id)["status"] == "succeeded", name
        edited = Edit.objects.get(pk=edit_id)
        upright = edited.result_height > edited.result_width
        assert upright == (FOLLOWED[name] == "row"), f"{name}: the worker followed the wrong prompt"


@pytest.mark.parametrize("shape", [EDIT, {"task_id": EDIT}, SHAPES["version_2"]])
def test_a_message_about_an_edit_that_is_gone_is_dropped(clean: None, shape: Any) -> None:
    from image_editor.pipeline.message import EditMessage

    assert EditMessage.load(shape) is None


def test_what_is_published_is_the_newest_shape() -> None:
    """A field that is added, renamed or removed needs a file of its own in tests/data/messages."""
    assert ours().payload() == SHAPES["version_1"]
    for field in ("output", "metadata"):
        shape = SHAPES[f"version_1_with_{field}"]
        assert ours(**{field: shape[field]}).payload() == shape


def test_the_output_is_in_the_message_and_in_the_row(user: Any) -> None:
    """So the worker saves the result in the same way, whichever of the two it reads."""
    from image_editor.models import Edit
    from image_editor.pipeline import transitions
    from image_editor.pipeline.message import EditMessage

    output = {"format": "webp", "quality": 60}
    for edit_id, asked in ((EDIT, output), (str(uuid.uuid4()), None)):
        sent = ours(task_id=edit_id, user_id=user.pk, output=asked)
        transitions.accept(sent)
        assert Edit.objects.get(pk=edit_id).output == asked
        assert EditMessage.load(sent.payload()) == EditMessage.load(edit_id)


@given(
    user_id=st.integers(1, 2**63 - 1),
    fresh=st.booleans(),
    output=st.none() | st.just({"format": "webp"}),
    metadata=st.none() | st.dictionaries(st.text(), st.text(), max_size=3),
    **TEXTS,
)
def test_a_message_arrives_as_it_was_published(**values: Any) -> None:
    """The way to the worker changes no text, and ``size`` counts the bytes of the message there."""
    from image_editor.pipeline.broker import StoredMessage
    from image_editor.pipeline.message import EditMessage
    from image_editor.shortcuts.task_message import task_message

    sent = ours(**values)
    stored = task_message("image_editor.tasks.edit", (sent.payload(),), sent.task_id, "edit")
    arrived = StoredMessage.read(stored, "edit").argument
    assert EditMessage.load(arrived) == sent
    assert sent.size() == len(json.dumps(arrived).encode())


@pytest.fixture
def filled(files: Any, user: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Returns a function: the body of a POST whose message has exactly LIMIT bytes.

    Its texts are not ASCII, so the message has several times as many bytes as the body has characters.
    """
    from image_editor.imaging import engines

    # The local engine refuses long prompts. The openai engine takes any prompt, but needs an account.
    monkeypatch.setattr(type(engines.get(settings.ENGINE)), "check", lambda *_: None)

    def wide(path: str) -> str:
        start = files.url(path)
        return start + WIDE * (settings.URL_MAX_CHARS - len(start))

    def fill(**fields: Any) -> dict[str, str]:
        urls = {"image_url": wide("/image"), "callback_url": wide("/callback")}
        accepted_at = "2026-01-01T00:00:00.000001+00:00"  # the API's times have microseconds
        rest = LIMIT - ours(user_id=user.pk, prompt="", accepted_at=accepted_at, **urls, **fields).size()
        return urls | {"prompt": WIDE * (rest // 12) + "x" * (rest % 12)}

    return fill


def published(services: Services, queue: str) -> list[int]:
    """The sizes in bytes of the messages that wait in a queue, the last one first."""
    from image_editor.pipeline.broker import StoredMessage

    waiting = services.admin().lrange(queue, 0, -1)
    return [len(json.dumps(StoredMessage.read(raw, queue).argument)) for raw in waiting]


def test_an_edit_is_refused_from_64_kib_and_one_byte(api: Any, filled: Callable, services: Services) -> None:
    from image_editor.models import Edit

    largest = filled(fresh=True)
    assert post(api, largest).status_code == 202
    refused = problem(post(api, largest | {"prompt": largest["prompt"] + "x"}), 422, "message_too_large")
    assert "64 KiB" in refused["detail"]
    assert Edit.objects.count() == 1
    assert published(services, "edit") == [LIMIT]


def test_a_batch_is_refused_if_one_of_its_messages_is_too_large(api: Any, filled: Callable, services: Services) -> None:
    from image_editor.models import Batch, Edit

    small, largest = {"image_url": "https://example.org/a.jpg", "prompt": "sepia"}, filled(batch_id=EDIT)
    too_large = largest | {"prompt": largest["prompt"] + "x"}
    refused = problem(post(api, {"items": [small, too_large, largest]}, "/api/v1/batches"), 422, "items_invalid")
    assert [(error["index"], error["code"]) for error in refused["errors"]] == [(1, "message_too_large")]
    assert (Edit.objects.count(), Batch.objects.count(), published(services, "batch")) == (0, 0, [])
    assert post(api, {"items": [small, largest]}, "/api/v1/batches").status_code == 202
    assert published(services, "batch")[0] == LIMIT


@pytest.mark.parametrize(("payload", "limit"), [("full", 1536), ("id", 1152)])
def test_what_a_message_costs(
    clean: None, services: Services, settings: Any, figure: Callable, payload: str, limit: int
) -> None:
    """Bytes of one message in the broker, and Redis's memory for one of a thousand that wait."""
    from image_editor.pipeline import publisher

    settings.TASK_PAYLOAD = payload
    count = 1000
    assert publisher.publish_edits([ours()] * count) == count
    broker = services.admin()
    size = len(broker.lindex("edit", 0))
    figure(f"message_bytes_{payload}", size, "B", limit)
    assert size <= limit
    memory = broker.memory_usage("edit", samples=0) / count
    figure(f"message_redis_bytes_{payload}", round(memory), "B", 1.25 * limit)
    assert size <= memory <= 1.25 * limit
