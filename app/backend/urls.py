"""The addresses of the application. The health probes are answered before routing, in image_editor.web.health."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.i18n import JavaScriptCatalog, set_language

from image_editor.api.v1 import api
from image_editor.web import pages

admin.autodiscover()
handler400 = "image_editor.web.pages.not_understood"
handler404 = "image_editor.web.pages.not_found"
handler500 = "image_editor.web.pages.our_fault"
urlpatterns = [
    path("", pages.home, name="home"),
    path("login/", pages.sign_in, name="sign-in"),
    path("logout/", pages.sign_out, name="sign-out"),
    path("language/", set_language, name="set-language"),
    path("messages.js", JavaScriptCatalog.as_view(packages=["image_editor"]), name="messages"),
    path("api/v1/", api.urls),
    path("favicon.ico", pages.icon),  # browsers ask for it on pages that name no icon, such as the admin's
    path("admin/", admin.site.urls),
]
if settings.METRICS_ENABLED:
    urlpatterns.append(path("", include("django_prometheus.urls")))  # /metrics; the edge does not pass it on
