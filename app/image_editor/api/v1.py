"""The API, version 1: its operations, who may call them, and its OpenAPI document."""

from functools import cached_property
from typing import Any

from django.views.decorators.cache import cache_control
from ninja import NinjaAPI
from ninja.operation import Operation

from image_editor.api import batches, edits, errors, rate_limits, tokens, uploads, usage, webhooks
from image_editor.api.bodies import JSONParser
from image_editor.api.openapi import PREFIX, complete
from image_editor.auth import PageAuth, TokenAuth


class API(NinjaAPI):
    """ninja's API with a complete OpenAPI document, and operation ids that never change."""

    @cached_property
    def _schema(self) -> Any:
        return complete(super().get_openapi_schema())

    def get_openapi_schema(self, **kwargs: Any) -> Any:
        """The document. Each process makes it once: that takes tens of milliseconds, and anybody may ask for it."""
        return self._schema

    def get_openapi_operation_id(self, operation: Operation) -> str:
        """The id that clients generate the names of their methods from. It does not follow our module names."""
        return f"{PREFIX}{operation.view_func.__name__}"


api = API(
    title="Image Editor",
    version="1.0.0",
    description="Edits images as a prompt says, in the background: submit, then poll or be called back.",
    auth=[TokenAuth(), PageAuth()],
    urls_namespace="api",
    docs_url="docs",
    parser=JSONParser(),
)
errors.register(api)
ROUTERS = {
    "/edits": edits.router,
    "/batches": batches.router,
    "/uploads": uploads.router,
    "/webhooks": webhooks.router,
    "/usage": usage.router,
    "/tokens": tokens.router,
}
for path, router in ROUTERS.items():
    router.add_decorator(cache_control(no_store=True), mode="view")
    router.add_decorator(rate_limits.shown, mode="view")
    api.add_router(path, router)
