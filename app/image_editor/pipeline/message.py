"""The task message: everything a worker needs, so that a successful edit reads no row.

Workers of this release and of others share a queue while a release is rolled out or back. So the message has a version:

- A message of our version may have fields that we do not know. They are ignored.
- A message without a version has the six fields without which there is no edit, and no others.
- A message of another version, or one that lacks a field, is read as the id that it carries: the worker reads the row.
- A bare id, which TASK_PAYLOAD=id publishes, is read in the same way.

A change that other releases cannot ignore needs a new VERSION. tests/data/messages has every shape that was ever
published.
"""

import json
from dataclasses import MISSING, asdict, dataclass, fields
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
    accepted_at: str = ""  # ISO 8601, UTC. Empty in a message without a version: the claim of the edit reads it.
    batch_id: str = ""
    # True if the request that accepted the edit published this message, so that no worker has tried the edit before.
    fresh: bool = False
    # As the row has them; None is not published. A worker of a release before `output` saves such a result with its
    # defaults; workers switch to a release before the API does.
    output: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
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
            output=edit.output,
            metadata=edit.metadata or None,
        )

    @classmethod
    def load(cls, payload: dict[str, Any] | str) -> Self | None:
        """The message that the broker delivered, or of the edit whose id it delivered. None: there is no such edit."""
        if message := cls.read(payload):
            return message
        edit = _row(payload["task_id"] if isinstance(payload, dict) else payload)
        return cls.of(edit, edit.user.username) if edit else None

    @classmethod
    def read(cls, payload: Any) -> Self | None:
        """The message as it was published. None if it is only an id, lacks a field or has another version."""
        if not isinstance(payload, dict):
            return None
        names = {field.name for field in fields(cls)} if "version" in payload else REQUIRED
        required = REQUIRED | {"accepted_at"} if "version" in payload else REQUIRED
        known = {name: payload[name] for name in names & payload.keys()}
        return cls(**known) if known.get("version", VERSION) == VERSION and known.keys() >= required else None

    def payload(self) -> dict[str, Any] | str:
        """The argument of the task: the whole message or only the id, as IMAGE_EDITOR_TASK_PAYLOAD says."""
        return self._members() if settings.TASK_PAYLOAD == "full" else self.task_id

    def size(self) -> int:
        """The size of the message in bytes, as JSON."""
        return len(json.dumps(self._members()))

    def _members(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


REQUIRED = {field.name for field in fields(EditMessage) if field.default is MISSING}
