"""A bucket of any S3-compatible store, by django-storages.

Only this module imports boto3, which takes 34 MiB and a second in each process. WebDAV does without it.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core.files.base import ContentFile
from storages.backends.s3 import S3Storage

from image_editor.imaging import inspection
from image_editor.storage import NotStored, StorageUnavailable

THREADS = 16  # requests at a time to remove many files: a request takes 20 to 50 ms, whatever it does

_local = threading.local()


def _store() -> S3Storage:
    """The connection of this thread. It is made when it is first needed, after any fork."""
    if not hasattr(_local, "store"):
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": settings.S3_ADDRESSING_STYLE},
            connect_timeout=3,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=THREADS,
            # Newer checksums only where the operation requires them: not every store knows them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        _local.store = S3Storage(
            endpoint_url=settings.S3_ENDPOINT_URL or None,
            bucket_name=settings.S3_BUCKET,
            region_name=settings.S3_REGION,
            access_key=settings.S3_ACCESS_KEY,
            secret_key=settings.S3_SECRET_KEY,
            verify=settings.CA_BUNDLE if os.path.exists(settings.CA_BUNDLE) else None,
            client_config=config,
            transfer_config=TransferConfig(use_threads=False),
            object_parameters={"CacheControl": "private, max-age=3600, immutable"},
            default_acl=None,
            querystring_auth=True,
        )
    return _local.store


@contextmanager
def _answering(action: str, name: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchKey":  # but not NoSuchBucket, which an operator can correct
            raise NotStored(name) from error
        raise StorageUnavailable(f"{action} {name}: {code}") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise StorageUnavailable(f"{action} {name}: {type(error).__name__}") from error


def put(name: str, data: bytes, content_type: str) -> None:
    content = ContentFile(data)
    content.content_type = content_type  # type: ignore[attr-defined]
    with _answering("PUT", name):
        _store().save(name, content)


def get(name: str) -> bytes:
    with _answering("GET", name):
        return _store().bucket.Object(name).get()["Body"].read()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "s3")


def delete(*names: str) -> None:
    """Not by DeleteObjects, which takes many names: not every store has it, or knows its checksums."""
    remove = partial(_delete, _client())
    if len(names) == 1:
        remove(*names)
    elif names:
        list(_threads().map(remove, names))


def _client() -> Any:
    """boto3's client, which threads may share. They may not share S3Storage."""
    return _store().bucket.meta.client


def _delete(client: Any, name: str) -> None:
    with _answering("DELETE", name):
        keys = _keys(client, name) if name.endswith("/") else [name]
        for key in keys:
            client.delete_object(Bucket=settings.S3_BUCKET, Key=key)


def _keys(client: Any, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=settings.S3_BUCKET, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def entries(folder: str) -> list[str]:
    pages = _client().get_paginator("list_objects_v2")
    with _answering("LIST", folder):
        found = list(pages.paginate(Bucket=settings.S3_BUCKET, Prefix=folder, Delimiter="/"))
    files = [item["Key"] for page in found for item in page.get("Contents", [])]
    folders = [item["Prefix"] for page in found for item in page.get("CommonPrefixes", [])]
    if not files and not folders:
        raise NotStored(folder)
    return [name.removeprefix(folder) for name in files + folders]


def signed_url(name: str, now: float | None = None) -> str:
    """A presigned GET. A browser saves a file whose name is not that of an image, and never shows it."""
    image = name.rpartition(".")[2] in inspection.EXTENSIONS.values()
    parameters = {} if image else {"ResponseContentDisposition": "attachment"}
    return _store().url(name, parameters=parameters, expire=settings.MEDIA_URL_TTL)
