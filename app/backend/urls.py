"""Every address of the application. The two health probes are answered before routing, in image_editor.health."""

from django.contrib import admin
from django.urls import path

from image_editor.views import api

urlpatterns = [
    path("api/v1/", api.urls),
    path("admin/", admin.site.urls),
]
