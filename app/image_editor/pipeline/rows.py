"""Which of many ids have a row, asked in statements of a bounded size."""

from collections.abc import Iterable
from itertools import batched

from image_editor.models import Callback, Edit, Upload

AT_ONCE = 1000  # ids or keys in one statement


def existing(model: type[Edit | Callback | Upload], ids: Iterable[str]) -> set[str]:
    """The ids that have a row."""
    parts = batched(ids, AT_ONCE, strict=False)
    return {str(pk) for part in parts for pk in model.objects.filter(pk__in=part).values_list("pk", flat=True)}


def owners(ids: Iterable[str]) -> set[str]:
    """The ids, of those in the names of files, that have a row: of an edit, or of an upload for many edits."""
    wanted = set(ids)
    edits = existing(Edit, wanted)
    return edits | existing(Upload, wanted - edits)
