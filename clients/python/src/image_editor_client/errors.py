"""What can go wrong. Every exception of the client is a ClientError."""

from __future__ import annotations

from typing import Any

from image_editor_client.documents import Batch, Edit


class ClientError(Exception):
    """Something went wrong."""


class NotReached(ClientError):
    """The platform did not answer, also after repetitions."""


class ApiError(ClientError):
    """The API refused a request. ``code`` is for programs, ``detail`` says what to change."""

    def __init__(self, status: int, problem: dict[str, Any], request_id: str) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail", f"the platform answered {status}"))
        self.errors: list[dict[str, Any]] = problem.get("errors", [])  # fields or items to change
        self.request_id = request_id  # for the operator
        super().__init__(f"{status} {self.code}: {self.detail}")


class EditFailed(ClientError):
    """The edit ended without a result."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        super().__init__(f"{edit.error.code}: {edit.error.detail}" if edit.error else f"the edit was {edit.status}")


class StillRunning(ClientError, TimeoutError):
    """The edit or batch did not end in the time that the caller gave. ``last`` is what was known then."""

    def __init__(self, last: Edit | Batch) -> None:
        self.last = last
        super().__init__(f"{last.id} has not ended")
