"""The secrets that callbacks are signed with: one for each user, and the one before it until it expires.

No secret is stored. It is derived from the application's SECRET_KEY and a random value in the user's row, so the
database or a backup of it does not reveal a secret. Whoever has SECRET_KEY and the database can derive every secret. A
new SECRET_KEY changes the secrets of all users. While the former key is in SECRET_KEY_FALLBACKS, the former secrets
sign, too.
"""

import base64
import uuid
from datetime import timedelta

from django.conf import settings
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import salted_hmac

from image_editor.models import WebhookSecret

PREFIX = "whsec_"


def row(user_id: int) -> WebhookSecret:
    """The row of a user. The first call makes it."""
    return WebhookSecret.objects.get_or_create(user_id=user_id)[0]


def valid(secret: WebhookSecret) -> list[bytes]:
    """The secrets that sign now, the current one first."""
    seeds = [secret.seed]
    if secret.former_seed and secret.former_expires_at and secret.former_expires_at > timezone.now():
        seeds.append(secret.former_seed)
    return [_derive(seed, key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS) for seed in seeds]


def shown(secret: WebhookSecret) -> str:
    """The current secret as receivers configure it: ``whsec_<base64>``."""
    return PREFIX + base64.b64encode(_derive(secret.seed, settings.SECRET_KEY)).decode()


def rotate(user_id: int, overlap: timedelta) -> bool:
    """Replace the secret. The former one stays valid for the overlap.

    False if there is an overlap and an earlier one has not ended: a request sent twice must not end the secret that
    receivers still use. Without an overlap, every former secret ends now.
    """
    row(user_id)
    rows = WebhookSecret.objects.filter(user_id=user_id)
    if overlap:
        rows = rows.filter(Q(former_expires_at=None) | Q(former_expires_at__lte=Now()))
    changed = rows.update(former_seed=F("seed"), former_expires_at=Now() + overlap, seed=uuid.uuid4(), created_at=Now())
    return bool(changed)


def _derive(seed: uuid.UUID, key: str) -> bytes:
    return salted_hmac("image_editor.webhooks", seed.bytes, secret=key, algorithm="sha256").digest()
