"""The names of files: uploads/<minute>/<edit>.<extension> and results/<minute>/<edit>/<number>.<extension>.

An upload for many edits has an id of its own: uploads/<minute>/shared-<id>.<extension>. The sweep of the previous
release would take a file without the prefix for that of a removed edit. It leaves other names alone.

The minute is that of the acceptance, so a folder stays small: 1,400 edits at two million a day. Earlier releases stored
uploads/<year>/<month>/<day>/<edit>.<extension> and results/<edit>/<number>.<extension>.
"""

import re
from datetime import UTC, datetime
from uuid import UUID

TOPS = ("uploads", "results")
SHARED = "shared-"


def day(at: datetime) -> str:
    """The day's folder, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def minute(at: datetime) -> str:
    """The minute's folder in the day's folder, in UTC."""
    return f"{day(at)}/{at.astimezone(UTC):%H-%M}"


def upload(edit_id: UUID | str, accepted_at: datetime, extension: str) -> str:
    """The upload of one edit."""
    return f"uploads/{minute(accepted_at)}/{edit_id}.{extension}"


def shared(upload_id: UUID | str, accepted_at: datetime, extension: str) -> str:
    """An upload for many edits."""
    return f"uploads/{minute(accepted_at)}/{SHARED}{upload_id}.{extension}"


def results(edit_id: UUID | str, accepted_at: datetime) -> str:
    """The folder of all results of an edit, with a slash at its end."""
    return f"results/{minute(accepted_at)}/{edit_id}/"


def owner(name: str) -> str:
    """The id of the edit, or of the upload for many edits, to which a file or folder belongs; "" for another name."""
    *folders, last = name.rstrip("/").split("/")
    result = bool(folders) and folders[0] == "results" and not name.endswith("/")
    found = folders[-1] if result else last.removeprefix(SHARED).partition(".")[0]
    return found if is_id(found) else ""


def minute_of(name: str) -> str:
    """The minute's folder that a file is in, as `minute` gives it; "" for a file of an earlier release."""
    found = re.match(r"[a-z]+/(\d{4}-\d\d-\d\d/\d\d-\d\d)/", name)
    return found[1] if found else ""


def is_id(text: str) -> bool:
    """Whether this is an id, as names have it."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
