"""A client of the Image Editor's API, version 1: :class:`Client`, :class:`AsyncClient` and :func:`verify`."""

from image_editor_client.client import AsyncClient, Client
from image_editor_client.documents import Batch, Edit, Failure, Item, Limit, Result, Token, Upload
from image_editor_client.errors import ApiError, ClientError, EditFailed, NotReached, StillRunning
from image_editor_client.webhooks import Event, NotGenuine, verify

__all__ = [
    "ApiError",
    "AsyncClient",
    "Batch",
    "Client",
    "ClientError",
    "Edit",
    "EditFailed",
    "Event",
    "Failure",
    "Item",
    "Limit",
    "NotGenuine",
    "NotReached",
    "Result",
    "StillRunning",
    "Token",
    "Upload",
    "verify",
]
