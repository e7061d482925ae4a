"""Every address of the application. The two health probes are answered before routing, in image_editor.web.health."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from image_editor.api.views import api
from image_editor.web import pages

admin.autodiscover()
handler404 = "image_editor.web.pages.not_found"
handler500 = "image_editor.web.pages.our_fault"
urlpatterns = [
    path("", pages.home, name="home"),
    path("login/", pages.sign_in, name="sign-in"),
    path("logout/", pages.sign_out, name="sign-out"),
    path("api/v1/", api.urls),
    path("favicon.ico", pages.icon),  # asked for by browsers on pages that name none, such as the admin's
    path("admin/", admin.site.urls),
]
if settings.METRICS_ENABLED:
    urlpatterns.append(path("", include("django_prometheus.urls")))  # /metrics; the edge passes it to nobody
