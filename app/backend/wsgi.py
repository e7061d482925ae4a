"""What gunicorn serves: ``backend.wsgi:application``."""

import gc
import importlib
import os
import re
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.settings")


class Request(WSGIRequest):
    """A request whose Content-Type has no parameter but the boundary. Text is UTF-8.

    Django decodes the query string with the charset that a client names. Some charsets, such as base64, make it fail
    before any middleware runs.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        kind, _, parameters = environ.get("CONTENT_TYPE", "").partition(";")
        boundary = re.search(r'\bboundary=("[^"]*"|[^;\s]*)', parameters, re.IGNORECASE)
        environ["CONTENT_TYPE"] = f"{kind}; {boundary[0]}" if boundary else kind
        super().__init__(environ)


application = get_wsgi_application()
application.request_class = Request
# Django would load the URLs, and so the API, at the first request of each process: more than a second, several times.
importlib.import_module(settings.ROOT_URLCONF)

# What is loaded now is never freed, and a request leaves hardly any reference cycles. Collecting less often saves a
# tenth of a POST.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 100)
