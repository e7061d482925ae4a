"""A bucket of any S3-compatible store, by django-storages.

Only this module imports boto3, which takes 34 MiB and a second in each process. WebDAV does without it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core.files.base import ContentFile
from storages.backends.s3 import S3Storage

from image_editor.imaging import inspection
from image_editor.storage import NotStored, StorageUnavailable

_local = threading.local()


def _store() -> S3Storage:
    """The connection of this thread. It is made when it is first needed, after any fork."""
    if not hasattr(_local, "store"):
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": settings.S3_ADDRESSING_STYLE},
            connect_timeout=3,
            read_timeout=20,
            retries={"mode": "standard", "total_max_attempts": 3},
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


def delete(name: str) -> None:
    with _answering("DELETE", name):
        _store().delete(name)


def signed_url(name: str, now: float | None = None) -> str:
    """A presigned GET. A browser saves a file whose name is not that of an image, and never shows it."""
    image = name.rpartition(".")[2] in inspection.EXTENSIONS.values()
    parameters = {} if image else {"ResponseContentDisposition": "attachment"}
    return _store().url(name, parameters=parameters, expire=settings.MEDIA_URL_TTL)
