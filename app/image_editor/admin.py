"""The admin: what operators see and may do. No form edits a state; actions change it by the guarded statements."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.html import format_html

from image_editor import tokens
from image_editor.models import UNFINISHED, ApiToken, Batch, Callback, Edit
from image_editor.pipeline import transitions
from image_editor.webhooks import callbacks

admin.site.site_header = admin.site.site_title = "Image Editor"
admin.site.index_title = "Operations"


class ReadOnly(admin.ModelAdmin):
    """Rows are found by id or user, and no form edits them. Actions need the permission to change the model."""

    search_fields: tuple[str, ...] = ("=user__username",)
    search_help_text = "An id, or the name of a user"
    show_full_result_count = False
    list_per_page = 50

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        try:
            return queryset.filter(pk=UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return super().has_change_permission(request)

    def tell(self, request: HttpRequest, rows: QuerySet, change: Callable[[Any], bool], done: str) -> None:
        """Call ``change`` for each row, and show how many rows changed."""
        outcomes = [change(row) for row in rows]
        self.message_user(request, f"{sum(outcomes)} of {len(outcomes)} {done}")


@admin.register(Edit)
class EditAdmin(ReadOnly):
    list_display = (
        "id",
        "user",
        "status",
        "attempt",
        "faults",
        "prompt_start",
        "accepted_at",
        "finished_at",
        "error_code",
    )
    list_filter = ("status", "error_code")
    list_select_related = ("user",)
    ordering = ("-accepted_at",)
    actions = ("requeue", "cancel")

    @admin.display(description="prompt")
    def prompt_start(self, edit: Edit) -> str:
        return edit.prompt[:80]

    @admin.action(description="Requeue failed and cancelled edits", permissions=["operate"])
    def requeue(self, request: HttpRequest, rows: QuerySet[Edit]) -> None:
        self.tell(request, rows, transitions.requeue, "edits requeued: the scheduler publishes them within seconds")

    @admin.action(description="Cancel unfinished edits", permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: QuerySet[Edit]) -> None:
        self.tell(request, rows, transitions.cancel, "edits cancelled")


@admin.register(Batch)
class BatchAdmin(ReadOnly):
    list_display = ("id", "user", "total", "unfinished", "accepted_at", "finished_at", "edits")
    list_filter = (("finished_at", admin.EmptyFieldListFilter),)
    list_select_related = ("user",)
    ordering = ("-accepted_at",)
    actions = ("cancel",)

    @admin.display
    def edits(self, batch: Batch) -> str:
        address = reverse("admin:image_editor_edit_changelist", query={"batch__id__exact": batch.pk})
        return format_html('<a href="{}">its edits</a>', address)

    @admin.action(description="Cancel unfinished edits", permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        edits = Edit.objects.filter(batch__in=rows, status__in=UNFINISHED)
        self.tell(request, edits, transitions.cancel, "unfinished edits cancelled")


@admin.register(Callback)
class CallbackAdmin(ReadOnly):
    """The page of a callback has its attempts."""

    list_display = ("id", "user", "url", "state", "tries", "next_try_at", "last_status", "last_error")
    list_filter = ("state",)
    list_select_related = ("user",)
    search_fields = ("=user__username", "=edit__user__username", "=batch__user__username")
    ordering = ("-created_at",)
    actions = ("requeue",)

    @admin.action(description="Deliver again, with eight tries", permissions=["operate"])
    def requeue(self, request: HttpRequest, rows: QuerySet[Callback]) -> None:
        count = len(rows)
        self.message_user(request, f"{callbacks.redeliver(rows)} of {count} callbacks requeued")


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    """Only digests of tokens are stored. Operators make tokens here, which are shown once, and revoke them."""

    fields = ("user", "name", "scope", "expires_at")
    raw_id_fields = ("user",)
    list_display = ("public_id", "user", "name", "scope", "created_at", "expires_at", "last_used_at")
    list_filter = ("scope",)
    search_help_text = "The name of a user"
    list_select_related = ("user",)
    ordering = ("-created_at",)

    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> tuple[str, ...]:
        return self.list_display if obj else self.fields

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        return admin.ModelAdmin.get_search_results(self, request, queryset, search_term)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return admin.ModelAdmin.has_add_permission(self, request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        obj.made = tokens.make(obj)  # type: ignore[attr-defined] - for the answer alone

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None) -> HttpResponse:
        """Show the token in this answer. A message for the next page would store the token."""
        return render(request, "image_editor/token_made.html", {"token": obj})
