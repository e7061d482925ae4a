"""The site of the admin: who may enter."""

from django.contrib import admin
from django.http import HttpRequest

from image_editor import auth


class Site(admin.AdminSite):
    def has_permission(self, request: HttpRequest) -> bool:
        """Staff with a password, or with a token that an operator gave.

        Programs hold the tokens that users make. Whoever finds such a token of the staff finds no way into the admin.
        """
        if not super().has_permission(request):
            return False
        token = auth.token_of(request)
        return token is None or token.parent_id is None
