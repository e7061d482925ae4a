"""Lists: pages by position instead of number, so that new rows shift no page, and page 1000 costs as much as page 1.

A period is a part of the same index.
"""

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from image_editor.api.problems import Problem
from image_editor.api.schemas import Page, Period
from image_editor.models import Batch, Callback, Edit, Upload


def paginate[Row: (Edit, Batch, Callback, Upload)](
    request: HttpRequest, rows: QuerySet[Row], page: Page, filters: Iterable[str] = ()
) -> tuple[list[Row], str | None]:
    """The rows of the page, the newest first, and the address of the next page if there is one. Raises Problem.

    ``filters``: the parameters that the list takes besides those of the page. A misspelt one would show too much.
    """
    known = sorted({*Page.model_fields, *filters})
    if unknown := sorted(request.GET.keys() - known):
        raise Problem(422, "invalid", f"{unknown[0][:50]}: no such parameter; there are {', '.join(known)}")
    if page.cursor:
        accepted_at, last_id = _position(page.cursor)
        # The first condition lets the index begin at the cursor. The second one alone reads every row before it.
        rows = rows.filter(accepted_at__lte=accepted_at)
        rows = rows.filter(Q(accepted_at__lt=accepted_at) | Q(pk__lt=last_id))
    found = list(rows.order_by("-accepted_at", "-pk")[: page.limit + 1])
    if len(found) <= page.limit:
        return found, None
    last = found[page.limit - 1]
    query = request.GET.copy()
    query["cursor"] = base64.urlsafe_b64encode(f"{last.accepted_at.isoformat()} {last.pk}".encode()).decode()
    return found[: page.limit], f"{request.path}?{query.urlencode()}"


def within[Row: (Edit, Batch)](rows: QuerySet[Row], period: Period) -> QuerySet[Row]:
    """The rows that were accepted in the period. Raises Problem."""
    if period.accepted_from is not None:
        rows = rows.filter(accepted_at__gte=_moment(period.accepted_from, "accepted_from"))
    if period.accepted_before is not None:
        rows = rows.filter(accepted_at__lt=_moment(period.accepted_before, "accepted_before"))
    return rows


def _moment(text: str, field: str) -> datetime:
    """The moment in UTC. One beyond the years of Python becomes the first or the last of them. Raises Problem."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
    except ValueError as error:
        detail = f"{field}: send a date and a time with an offset, such as 2026-11-27T00:00:00Z"
        raise Problem(422, "invalid", detail) from error
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return (datetime.min if moment.year == 1 else datetime.max).replace(tzinfo=UTC)


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        accepted_at, _, last_id = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        moment = datetime.fromisoformat(accepted_at)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        # In UTC: PostgreSQL refuses offsets that Python accepts.
        return moment.astimezone(UTC), UUID(last_id)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise Problem(422, "invalid", "cursor: use the address in 'next' as it is") from error
