"""The task message: everything a worker needs, so that a successful edit reads no row.

Workers of this release and of the last one share a queue while a release is rolled out or back. So the message has a
version, unknown fields are ignored, and a bare id is understood as well.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from django.conf import settings

from image_editor.models import Edit
from image_editor.shortcuts.database import repeat_if_connection_lost

VERSION = 1


@repeat_if_connection_lost
def _row(edit_id: str) -> Edit | None:
    return Edit.objects.select_related("user").filter(pk=edit_id).first()


@dataclass(frozen=True, slots=True)
class EditMessage:
    task_id: str
    image_url: str  # http(s)://…, or media:<name> of an upload
    prompt: str
    callback_url: str
    user_id: int
    username: str
    accepted_at: str  # ISO 8601, UTC
    batch_id: str = ""
    # True if the request that accepted the edit published this message, so that no worker has tried the edit before.
    fresh: bool = False
    version: int = VERSION

    @classmethod
    def of(cls, edit: Edit, username: str) -> Self:
        return cls(
            task_id=str(edit.pk),
            image_url=edit.image_url,
            prompt=edit.prompt,
            callback_url=edit.callback_url,
            user_id=edit.user_id,
            username=username,
            accepted_at=edit.accepted_at.isoformat(),
            batch_id=str(edit.batch_id or ""),
        )

    @classmethod
    def load(cls, payload: dict[str, Any] | str) -> Self | None:
        """The message that the broker delivered, or of the edit whose id it delivered. None: there is no such edit."""
        if isinstance(payload, dict):
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in payload.items() if key in known})
        edit = _row(payload)
        return cls.of(edit, edit.user.username) if edit else None

    def payload(self) -> dict[str, Any] | str:
        """The argument of the task: the whole message or only the id, as IMAGE_EDITOR_TASK_PAYLOAD says."""
        return asdict(self) if settings.TASK_PAYLOAD == "full" else self.task_id

    def size(self) -> int:
        """The size of the message in bytes, as JSON."""
        return len(json.dumps(asdict(self)))
