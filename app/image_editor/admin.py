"""The admin: what operators see and may do. No form edits a state; actions change it by the guarded statements."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from image_editor import auth, tokens
from image_editor.api.problems import Problem
from image_editor.details import translated
from image_editor.models import UNFINISHED, ApiToken, Batch, Callback, Edit
from image_editor.pipeline import transitions
from image_editor.webhooks import callbacks

admin.site.site_header = admin.site.site_title = "Image Editor"
admin.site.index_title = _("Operations")

# The names of models and fields. In the models, each name of a field would be a migration.
MODELS = {
    Edit: (_("edit"), _("edits")),
    Batch: (_("batch"), _("batches")),
    Callback: (_("callback"), _("callbacks")),
    ApiToken: (_("API token"), _("API tokens")),
}
FIELDS = {
    "accepted_at": _("accepted at"),
    "attempt": _("attempt"),
    "attempts": _("attempts"),
    "batch": _("batch"),
    "batch_index": _("batch index"),
    "callback_url": _("callback URL"),
    "created_at": _("created at"),
    "delivered_at": _("delivered at"),
    "digest": _("digest"),
    "dispatched_at": _("dispatched at"),
    "dispatches": _("dispatches"),
    "edit": _("edit"),
    "error_code": _("error code"),
    "error_detail": _("error detail"),
    "expires_at": _("expires at"),
    "faults": _("faults"),
    "finished_at": _("finished at"),
    "forgiven": _("forgiven"),
    "holder": _("holder"),
    "id": _("ID"),
    "idempotency_key": _("idempotency key"),
    "image_url": _("image URL"),
    "last_error": _("last error"),
    "last_status": _("last status"),
    "last_used_at": _("last used at"),
    "lease_expires_at": _("lease expires at"),
    "lifetime": _("lifetime"),
    "metadata": _("metadata"),
    "name": _("name"),
    "next_try_at": _("next try at"),
    "output": _("output"),
    "parent": _("made with"),
    "prompt": _("prompt"),
    "reference": _("reference"),
    "replaced_by": _("replaced by"),
    "request_digest": _("request digest"),
    "requeued_at": _("requeued at"),
    "result_bytes": _("result bytes"),
    "result_height": _("result height"),
    "result_name": _("result name"),
    "result_type": _("result type"),
    "result_width": _("result width"),
    "retry_at": _("retry at"),
    "scope": _("scope"),
    "started_at": _("started at"),
    "state": _("state"),
    "status": _("status"),
    "total": _("total"),
    "tries": _("tries"),
    "unfinished": _("unfinished"),
    "url": _("URL"),
    "user": _("user"),
}
for model, (one, many) in MODELS.items():
    model._meta.verbose_name, model._meta.verbose_name_plural = one, many
    for field in model._meta.fields:
        field.verbose_name = FIELDS.get(field.name, field.verbose_name)


class ReadOnly(admin.ModelAdmin):
    """Rows are found by id or user, and no form edits them. Actions need the permission to change the model."""

    search_fields: tuple[str, ...] = ("=user__username",)
    search_help_text = _("An id, or the name of a user")
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
        self.message_user(request, done % {"changed": sum(outcomes), "all": len(outcomes)})


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

    @admin.display(description=_("prompt"))
    def prompt_start(self, edit: Edit) -> str:
        return edit.prompt[:80]

    @admin.action(description=_("Requeue failed and cancelled edits"), permissions=["operate"])
    def requeue(self, request: HttpRequest, rows: QuerySet[Edit]) -> None:
        done = gettext("%(changed)d of %(all)d edits requeued: the scheduler publishes them within seconds")
        self.tell(request, rows, transitions.requeue, done)

    @admin.action(description=_("Cancel unfinished edits"), permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: QuerySet[Edit]) -> None:
        self.tell(request, rows, transitions.cancel, gettext("%(changed)d of %(all)d edits cancelled"))


@admin.register(Batch)
class BatchAdmin(ReadOnly):
    list_display = ("id", "user", "total", "unfinished", "accepted_at", "finished_at", "edits")
    list_filter = (("finished_at", admin.EmptyFieldListFilter),)
    list_select_related = ("user",)
    ordering = ("-accepted_at",)
    actions = ("cancel",)

    @admin.display(description=_("edits"))
    def edits(self, batch: Batch) -> str:
        address = reverse("admin:image_editor_edit_changelist", query={"batch__id__exact": batch.pk})
        return format_html('<a href="{}">{}</a>', address, gettext("its edits"))

    @admin.action(description=_("Cancel unfinished edits"), permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: QuerySet[Batch]) -> None:
        edits = Edit.objects.filter(batch__in=rows, status__in=UNFINISHED)
        self.tell(request, edits, transitions.cancel, gettext("%(changed)d of %(all)d unfinished edits cancelled"))


@admin.register(Callback)
class CallbackAdmin(ReadOnly):
    """The page of a callback has its attempts."""

    list_display = ("id", "user", "url", "state", "tries", "next_try_at", "last_status", "last_error")
    list_filter = ("state",)
    list_select_related = ("user",)
    search_fields = ("=user__username", "=edit__user__username", "=batch__user__username")
    ordering = ("-created_at",)
    actions = ("requeue",)

    @admin.action(description=_("Deliver again, with eight tries"), permissions=["operate"])
    def requeue(self, request: HttpRequest, rows: QuerySet[Callback]) -> None:
        count = {"all": len(rows), "changed": callbacks.redeliver(rows)}
        self.message_user(request, gettext("%(changed)d of %(all)d callbacks requeued") % count)


class ApiTokenForm(forms.ModelForm):
    """Refuses what the API would refuse, too. The admin checks and saves in one transaction."""

    request: HttpRequest  # in the class that the admin makes for it

    def clean(self) -> dict[str, Any]:
        fields = super().clean() or self.cleaned_data
        if owner := fields.get("user") if "user" in self.fields else self.request.user:
            try:
                auth.require_end(self.request, fields.get("expires_at"))
                tokens.check_room(owner)
            except (Problem, tokens.TooMany) as error:
                raise forms.ValidationError(translated(str(error))) from error
        return fields


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    """Only digests of tokens are stored. Operators make tokens here, which are shown once, and revoke them.

    Whoever has the permission to add tokens makes them for himself, and only a superuser for others: with a token of
    another user he would have the rights of that user.
    """

    form = ApiTokenForm
    fields = ("user", "name", "scope", "expires_at")
    raw_id_fields = ("user",)
    list_display = ("public_id", "user", "name", "scope", "created_at", "expires_at", "last_used_at")
    list_filter = ("scope",)
    search_help_text = _("The name of a user")
    list_select_related = ("user",)
    ordering = ("-created_at",)

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> type[forms.ModelForm]:
        form = super().get_form(request, *args, **kwargs)
        form.request = request
        return form

    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> tuple[str, ...]:
        if obj:
            return self.list_display
        return self.fields if request.user.is_superuser else self.fields[1:]

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        return admin.ModelAdmin.get_search_results(self, request, queryset, search_term)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return admin.ModelAdmin.has_add_permission(self, request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        if not request.user.is_superuser:
            obj.user = request.user
        obj.parent = auth.token_of(request)
        obj.made = tokens.make(obj)  # type: ignore[attr-defined] - for the answer alone

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None) -> HttpResponse:
        """Show the token in this answer. A message for the next page would store the token."""
        return render(request, "image_editor/token_made.html", {"token": obj})
