"""What is checked before an edit is accepted, beyond the schema. Every check raises Problem."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpRequest

from image_editor import http_client, storage
from image_editor.api import rate_limits
from image_editor.api.problems import Problem
from image_editor.api.schemas import DryRunIn, EditForm, EditIn
from image_editor.imaging import engines, inspection
from image_editor.imaging.operations import Output, as_prompt
from image_editor.models import Upload
from image_editor.pipeline.message import EditMessage


def check_fields(body: EditIn | EditForm) -> None:
    """Check the prompt or the operations, the output and the URLs."""
    check_instructions(body)
    if body.image_url:
        check_url(body.image_url, "image_url")
    if body.callback_url:
        check_url(body.callback_url, "callback_url")


def prompt_of(body: EditIn | EditForm | DryRunIn) -> str:
    """The prompt, or the one that means the same as the operations."""
    try:
        return as_prompt(body.operations) or body.prompt
    except engines.EditError as error:
        raise Problem(422, error.code, str(error)) from error


def output_of(body: EditIn | EditForm) -> dict[str, Any] | None:
    """The output as rows and messages have it."""
    return body.output.stored() if body.output else None


def check_instructions(body: EditIn | EditForm | DryRunIn) -> None:
    """Check that there is a prompt or a list of operations, and that the engine understands it."""
    sent = {"prompt", "operations"} <= body.model_fields_set
    if sent and (isinstance(body, EditForm) or (body.prompt and body.operations)):
        raise Problem(422, "invalid", "send either 'prompt' or 'operations', not both")
    check_prompt(prompt_of(body), body.output)


def check_prompt(prompt: str, output: Output | None) -> None:
    """Check that the engine understands the prompt, and can save the output."""
    if not prompt.strip():
        raise Problem(422, "prompt_missing", "say in 'prompt' or in 'operations' what to do with the image")
    if len(prompt) > settings.PROMPT_MAX_CHARS:
        raise Problem(422, "prompt_too_long", f"shorten the prompt to {settings.PROMPT_MAX_CHARS} characters")
    if "\x00" in prompt or not _encodable(prompt):
        raise Problem(422, "prompt_unknown", "the prompt has characters that are not text: send plain text")
    check_work(prompt, None, output)


def check_work(prompt: str, image: bytes | None, output: Output | None) -> None:
    """Check that the engine understands the prompt, and that it can edit an upload within its limits."""
    try:
        engines.get(settings.ENGINE).check(prompt, image, output)
    except engines.EditError as error:
        raise Problem(422, error.code, str(error)) from error


def plan(body: DryRunIn) -> tuple[str, engines.Plan]:
    """What an edit would do: in words, and as the engine's plan."""
    check_instructions(body)
    prompt, image = prompt_of(body), body.image
    described = engines.Described(image.format, image.width, image.height) if image else None
    try:
        found = engines.get(settings.ENGINE).plan(prompt, body.output, described)
    except engines.EditError as error:
        raise Problem(422, error.code, str(error)) from error
    with contextlib.suppress(engines.EditError):  # no quotation marks are left for the text of a watermark
        prompt = as_prompt(found.operations or ()) or prompt
    return prompt, found


def _encodable(text: str) -> bool:
    """False for half of a surrogate pair, which JSON can carry and PostgreSQL cannot store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_url(url: str, field: str) -> None:
    """Check that the platform opens addresses like this one. No name is looked up."""
    try:
        http_client.check_url(url)
    except http_client.Refused as error:
        raise Problem(422, f"{field}_refused", f"{field}: {error}") from error


def check_image(data: bytes) -> str:
    """Check an uploaded image without decoding a pixel. Returns its kind: jpeg, png or webp."""
    try:
        return inspection.check(data, settings.PIXELS_MAX, settings.SIDE_MIN)
    except inspection.Unacceptable as error:
        raise Problem(415 if error.code == "image_unsupported" else 422, error.code, str(error)) from error


def check_size(message: EditMessage) -> None:
    """Check that the message is small enough for the broker."""
    if message.size() > settings.TASK_MESSAGE_MAX_BYTES:
        limit = f"{settings.TASK_MESSAGE_MAX_BYTES // 1024} KiB"
        raise Problem(422, "message_too_large", f"shorten the prompt and the URLs: together they exceed {limit}")


class MediaPause:
    """After a failure of the media store, one request tries it every ten seconds, and this process refuses the others.

    A store that hangs holds a thread for up to 20 s. Without the pause, a few uploads would hold all threads.
    """

    SECONDS = 10.0

    def __init__(self) -> None:
        self._until = 0.0

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Run the block unless the pause lasts. Raises StorageUnavailable."""
        if time.monotonic() < self._until:
            raise storage.StorageUnavailable("it failed a moment ago")
        if self._until:  # this upload tries, and the others wait for what it finds
            self._until = time.monotonic() + self.SECONDS
        try:
            yield
        except storage.StorageUnavailable:
            self._until = time.monotonic() + self.SECONDS
            raise
        self.resume()

    def left(self) -> int:
        """Whole seconds until a request tries the media store again, at least 1."""
        return max(math.ceil(self._until - time.monotonic()), 1)

    def resume(self) -> None:
        """End a pause early."""
        self._until = 0.0


media_pause = MediaPause()


def store(name: str, data: bytes, kind: str) -> None:
    """Store an uploaded image."""
    try:
        with media_pause.around():
            storage.put(name, data, f"image/{kind}")
    except storage.StorageUnavailable as error:
        seconds = media_pause.left()
        detail = f"images cannot be stored at the moment: try again in {seconds} s"
        raise Problem(503, "storage_unavailable", detail, headers={"Retry-After": str(seconds)}) from error


def discard(*stored: str) -> None:
    """Remove stored images again, because their request accepts no edit. While the media store is down, they stay."""
    with contextlib.suppress(storage.StorageUnavailable):
        storage.delete(*stored)


def use_uploads(user_id: int, ids: Iterable[str]) -> dict[str, str]:
    """The names of the files of uploads by id. They are kept as long as the edits that use them now."""
    wanted = set(ids)
    if not wanted:
        return {}
    with transaction.atomic():
        uploads = list(Upload.objects.filter(pk__in=wanted, user=user_id).order_by("pk").select_for_update())
        Upload.objects.filter(pk__in=[upload.pk for upload in uploads]).update(used_at=Now())
    found = {str(upload.pk): upload.name for upload in uploads}
    if unknown := sorted(wanted - found.keys()):
        detail = f"upload the image again: there is no upload, or none any more, with the id {', '.join(unknown[:10])}"
        raise Problem(404, "upload_unknown", detail)
    return found


def check_room(request: HttpRequest, edits: int) -> None:
    """Check that so many edits more are within the user's limits, as far as is known, without counting them."""
    windows = rate_limits.known(request, rate_limits.EDITS)
    if full := next((window for window in windows if window.remaining < edits), None):
        raise too_many(rate_limits.Exceeded(full, windows))


def count(request: HttpRequest, edits: int) -> None:
    """Count edits against the user's limits, beyond the one that each request counts as."""
    try:
        rate_limits.counted(request, edits)
    except rate_limits.Exceeded as error:
        raise too_many(error) from error


def too_many(error: rate_limits.Exceeded) -> Problem:
    """The problem of a limit that is reached."""
    return Problem(429, "too_many", str(error), headers={"Retry-After": str(error.seconds)})
