"""What operators see. Nothing here changes an edit's state: that is for guarded statements alone."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from image_editor.models import ApiToken, Batch, Callback, Edit


class ReadOnly(admin.ModelAdmin):
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Edit)
class EditAdmin(ReadOnly):
    list_display = ("id", "user", "status", "attempt", "prompt", "accepted_at", "finished_at", "error_code")
    list_filter = ("status", "error_code")
    search_fields = ("=id", "=user__username")
    list_select_related = ("user",)


@admin.register(Batch)
class BatchAdmin(ReadOnly):
    list_display = ("id", "user", "total", "unfinished", "accepted_at", "finished_at")
    list_select_related = ("user",)


@admin.register(Callback)
class CallbackAdmin(ReadOnly):
    list_display = ("id", "url", "state", "tries", "next_try_at", "last_status", "last_error")
    list_filter = ("state",)


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    list_display = ("user", "digest", "created_at")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)  # revoking is an operator's work
