"""The contract between releases that share a queue: every shape of message that was ever published is understood."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from conftest import APP, TOKEN, make_user
from helpers import post, problem
from hypothesis import given
from hypothesis import strategies as st
from services import Services

pytestmark = pytest.mark.django_db(transaction=True)

SHAPES = {path.stem: json.loads(path.read_text()) for path in (APP / "tests/data/messages").glob("*.json")}
# Whose prompt the worker follows: the message's, or the row's.
FOLLOWED = {
    "bare_id": "row",
    "the_plans": "row",  # it lacks accepted_at, which the callback's document needs
    "version_1_before_fresh": "message",
    "version_1": "message",
    "version_1_with_a_later_field": "message",
    "version_2": "row",
}
EDIT = "0b9c3d52-6f0e-4f5e-9d0c-1c2b3a495867"
TEXTS = {name: st.text() for name in ("prompt", "image_url", "callback_url", "username")}
WIDE = "😀"  # one character, four bytes as UTF-8, twelve in JSON


@pytest.fixture
def row(clean: None) -> Any:
    """The row of the edit that every message names. Its prompt differs, so a test sees what was read."""
    from django.utils import timezone

    from image_editor.models import Edit

    alice = make_user("alice", TOKEN)
    return Edit.objects.create(
        pk=EDIT,
        user=alice,
        prompt="sepia",
        image_url="https://images.example.org/row.jpg",
        callback_url="https://client.example.org/done",
        accepted_at=timezone.now(),
    )


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


@pytest.mark.parametrize("shape", [EDIT, {"task_id": EDIT}, SHAPES["version_2"]])
def test_a_message_about_an_edit_that_is_gone_is_dropped(clean: None, shape: Any) -> None:
    from image_editor.pipeline.message import EditMessage

    assert EditMessage.load(shape) is None


def test_what_is_published_is_the_newest_shape() -> None:
    """A field that is added, renamed or removed needs a file of its own in tests/data/messages."""
    assert ours().payload() == SHAPES["version_1"]


@given(user_id=st.integers(1, 2**63 - 1), **TEXTS)
def test_a_message_arrives_as_it_was_published(**values: Any) -> None:
    """JSON changes no text, and ``size`` counts the bytes of the JSON."""
    from image_editor.pipeline.message import EditMessage

    sent = ours(**values)
    wire = json.dumps(asdict(sent))
    assert EditMessage.load(json.loads(wire)) == sent
    assert sent.size() == len(wire.encode())


def test_the_limit_is_exact() -> None:
    from image_editor.api import validation
    from image_editor.api.problems import Problem

    filled = ours(prompt="")
    filled = replace(filled, prompt="x" * (64 * 1024 - filled.size()))
    assert filled.size() == 64 * 1024
    validation.check_size(filled)
    with pytest.raises(Problem, match="together they exceed 64 KiB"):
        validation.check_size(replace(filled, prompt=filled.prompt + "x"))


def wide(path: str, files: Any, characters: int) -> str:
    """A URL of that many characters, each of which takes twelve bytes in the message."""
    start = files.url(path)
    return start + WIDE * (characters - len(start))


def test_a_message_that_is_too_large_is_refused_before_anything_is_kept(
    api: Any, files: Any, services: Services, settings: Any
) -> None:
    from image_editor.models import Batch, Edit

    settings.TASK_MESSAGE_MAX_BYTES = 32 * 1024  # the lab's engine understands no prompt that fills 64 KiB
    urls = {name: wide(f"/{name}", files, settings.URL_MAX_CHARS) for name in ("image_url", "callback_url")}
    body = urls | {"prompt": "sepia"}
    fits = body | {"callback_url": ""}
    assert post(api, fits).status_code == 202
    problem(post(api, body), 422, "message_too_large")
    refused = problem(post(api, {"items": [fits, body, fits]}, "/api/v1/batches"), 422, "items_invalid")
    assert [(error["index"], error["code"]) for error in refused["errors"]] == [(1, "message_too_large")]
    assert (Edit.objects.count(), Batch.objects.count()) == (1, 0)
    assert services.admin().llen("batch") == 0


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
    figure(f"message_redis_bytes_{payload}", round(memory), "B", 2 * limit)
    assert size <= memory <= 2 * limit
