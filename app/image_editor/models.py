"""The tables, which are the durable truth. Only image_editor.pipeline.transitions changes the state of an edit."""

import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q, Value
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

# Of a column that leads from one token to another. A release that does not know it could not remove a token to which a
# constraint leads.
_LINK: dict[str, Any] = {"null": True, "blank": True, "editable": False, "db_constraint": False, "db_index": False}


class ApiToken(models.Model):
    """A bearer token. Only its SHA-256 is stored. A token is 256 random bits, so a slower hash is not needed.

    image_editor.tokens writes these rows.
    """

    class Scope(models.TextChoices):
        READ = "read", _("Read")
        WORK = "work", _("Read and write, for a program")  # in the API, `write` that manages no tokens
        WRITE = "write", _("Write")

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=64, blank=True, default="", db_default="")
    # In hex; in capitals if the token is limited (image_editor.tokens).
    digest = models.CharField(max_length=64, unique=True)
    scope = models.CharField(max_length=5, choices=Scope, default=Scope.WRITE, db_default="write")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    # The time to the expiry that was wanted. A rotation lets the former token expire earlier, and keeps this.
    lifetime = models.DurationField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    # The token with which this one was made, and the one that the last rotation made.
    parent = models.ForeignKey("self", on_delete=models.CASCADE, related_name="children", **_LINK)
    replaced_by = models.ForeignKey("self", on_delete=models.SET_NULL, related_name="+", **_LINK)

    class Meta:
        db_table = "api_token"

    def __str__(self) -> str:
        return f"token of {self.user} ({self.public_id})"

    @property
    def public_id(self) -> uuid.UUID:
        """The id by which users and operators name the token. It reveals nothing of the digest."""
        return uuid.uuid5(uuid.NAMESPACE_OID, self.digest.lower())

    @property
    def limited(self) -> bool:
        """Whether the token may do less than the tokens of earlier releases."""
        return self.scope != self.Scope.WRITE or self.expires_at is not None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class RevokedToken(models.Model):
    """The hash of a token that was removed or replaced. An operator may still have it, and must not bring it back.

    Retention removes the row after 400 days.
    """

    digest = models.CharField(max_length=64, primary_key=True)  # SHA-256 in hex, never in capitals
    revoked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "revoked_token"

    def __str__(self) -> str:
        return f"revoked at {self.revoked_at}"


class WebhookSecret(models.Model):
    """What the user's signing secrets are derived from, with SECRET_KEY (image_editor.webhooks.signing_secrets)."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="webhook_secret"
    )
    seed = models.UUIDField(default=uuid.uuid4)
    created_at = models.DateTimeField(default=timezone.now)
    former_seed = models.UUIDField(null=True)
    former_expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "webhook_secret"

    def __str__(self) -> str:
        return f"webhook secret of {self.user}"


class Status(models.TextChoices):
    ACCEPTED = "accepted", _("Accepted")  # committed, not yet on the broker
    QUEUED = "queued", _("Queued")  # published
    PROCESSING = "processing", _("Processing")  # claimed by a worker, under a lease
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


FINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
UNFINISHED = (Status.ACCEPTED, Status.QUEUED, Status.PROCESSING)


class Batch(models.Model):
    """Edits that were submitted together. The statement that ends an item counts ``unfinished`` down."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="batches")
    callback_url = models.TextField(blank=True, default="")
    total = models.PositiveSmallIntegerField()
    unfinished = models.PositiveSmallIntegerField()
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001 - NULL is never a duplicate
    request_digest = models.CharField(max_length=64, blank=True, default="")
    accepted_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "batch"
        verbose_name_plural = "batches"
        constraints = [models.UniqueConstraint(fields=["user", "idempotency_key"], name="batch_idempotency")]
        indexes = [models.Index(fields=["user", "-accepted_at", "-id"], name="batch_of_user")]

    def __str__(self) -> str:
        return str(self.id)


def reference_in(metadata: Mapping[str, str] | None) -> str:
    """The one value of the metadata that clients can look for. It has a column and an index of its own."""
    return (metadata or {}).get("reference", "")


class Edit(models.Model):
    """One accepted edit. Its id is also the Celery task id and part of the names of its files."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Every index costs every INSERT. So a foreign key has no index of its own if another index begins with it, and an
    # index on a column that most edits leave empty is partial.
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="edits", db_index=False)
    batch = models.ForeignKey(
        Batch, on_delete=models.CASCADE, null=True, blank=True, related_name="items", db_index=False
    )
    batch_index = models.PositiveSmallIntegerField(null=True, blank=True)

    prompt = models.TextField()
    output = models.JSONField(null=True, blank=True)  # image_editor.imaging.operations.Output; NULL: the defaults
    # http(s):// as the client gave it, or media:<name> of an upload
    image_url = models.TextField()
    callback_url = models.TextField(blank=True, default="")
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001 - NULL is never a duplicate
    request_digest = models.CharField(max_length=64, blank=True, default="")

    metadata = models.JSONField(null=True, blank=True)  # the client's own, text by name; NULL: none
    reference = models.CharField(max_length=200, blank=True, default="", db_default="")  # see reference_in

    status = models.CharField(max_length=10, choices=Status, default=Status.ACCEPTED)
    # The number of claims. It fences off earlier holders, so it never decreases.
    attempt = models.PositiveSmallIntegerField(default=0)
    # Attempts that do not count towards TASK_ATTEMPTS_MAX: those that a fault of the platform ended, and those before
    # the last requeue or restore. Without a CHECK constraint, for which PostgreSQL would read the whole table.
    faults = models.SmallIntegerField(default=0, db_default=0)
    forgiven = models.SmallIntegerField(default=0, db_default=0)
    requeued_at = models.DateTimeField(null=True, blank=True)
    # The process that claimed the edit, and the number of that attempt (image_editor.pipeline.holder).
    holder = models.CharField(max_length=255, blank=True, default="", db_default="")
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    accepted_at = models.DateTimeField()
    dispatched_at = models.DateTimeField(null=True, blank=True)
    dispatches = models.PositiveSmallIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    result_name = models.CharField(max_length=255, blank=True, default="")
    result_type = models.CharField(max_length=50, blank=True, default="")
    result_width = models.PositiveIntegerField(null=True, blank=True)
    result_height = models.PositiveIntegerField(null=True, blank=True)
    result_bytes = models.PositiveIntegerField(null=True, blank=True)
    error_code = models.CharField(max_length=50, blank=True, default="")
    error_detail = models.TextField(blank=True, default="")

    class Meta:
        db_table = "edit"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="edit_idempotency",
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="edit_status_known"),
            models.CheckConstraint(
                condition=~Q(status=Status.SUCCEEDED) | ~Q(result_name=""), name="edit_succeeded_has_result"
            ),
        ]
        indexes = [
            models.Index(fields=["user", "-accepted_at", "-id"], name="edit_of_user"),
            models.Index(fields=["batch"], condition=Q(batch__isnull=False), name="edit_of_batch"),
            # This index stays small: the reconciler reads unfinished edits only.
            models.Index(fields=["status", "accepted_at"], condition=Q(status__in=UNFINISHED), name="edit_unfinished"),
            # For lists of one status. Without it, a client who asks for a rare one has all its edits read.
            models.Index(
                fields=["user", "status", "-accepted_at", "-id"],
                condition=Q(status__in=FINAL),
                name="edit_ended_of_user",
            ),
            models.Index(
                fields=["user", "reference", "-accepted_at", "-id"],
                condition=Q(reference__gt=""),
                name="edit_by_reference",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Upload(models.Model):
    """An image that a client uploaded for any number of edits. They name its file, and leave it to this row."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)  # also a part of the file's name
    # The index begins with it.
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="uploads", db_index=False)
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=50)
    bytes = models.PositiveIntegerField()
    accepted_at = models.DateTimeField()
    used_at = models.DateTimeField()  # by the newest edit; retention counts from here

    class Meta:
        db_table = "upload"
        indexes = [
            models.Index(fields=["user", "-accepted_at", "-id"], name="upload_of_user"),
            models.Index(fields=["used_at"], name="upload_by_use"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class RemovedFile(models.Model):
    """A file, or a folder with a slash at its end, that waits for its removal (image_editor.pipeline.retention)."""

    name = models.CharField(max_length=255)

    class Meta:
        db_table = "removed_file"

    def __str__(self) -> str:
        return self.name


class Callback(models.Model):
    """A notification that a client asked for, with its own tries. The transaction that ends the edit inserts it.

    One that is about neither an edit nor a batch is a test event.
    """

    class State(models.TextChoices):
        PENDING = "pending", _("Pending")
        DELIVERED = "delivered", _("Delivered")
        # All tries failed, or the URL was refused. Its owner or an operator can have it delivered again.
        DEAD = "dead", _("Dead")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # NULL in rows of earlier releases: the owner of the edit or batch, then. The index begins with it.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="callbacks", db_index=False
    )
    edit = models.ForeignKey(Edit, on_delete=models.CASCADE, null=True, blank=True, related_name="callbacks")
    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, null=True, blank=True, related_name="callbacks")
    url = models.TextField()
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    tries = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField()
    last_status = models.PositiveSmallIntegerField(null=True, blank=True)
    last_error = models.TextField(blank=True, default="")
    # The newest attempts, each {"at", "milliseconds", "status", "error"}. The row bounds them, and ends them with it.
    attempts = models.JSONField(default=list, db_default=Value([], models.JSONField()))
    created_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "callback"
        constraints = [
            # An edit or a batch has one callback, however often its messages are delivered.
            models.UniqueConstraint(fields=["edit"], name="callback_once_per_edit"),
            models.UniqueConstraint(fields=["batch"], name="callback_once_per_batch"),
        ]
        indexes = [
            models.Index(fields=["next_try_at"], condition=Q(state="pending"), name="callback_due"),
            models.Index(fields=["user", "-created_at", "-id"], name="callback_of_user"),
            # Few of many: without it, a search for them reads all callbacks of the user.
            models.Index(
                fields=["user", "-created_at", "-id"], condition=Q(state="dead"), name="callback_dead_of_user"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id} to {self.url}"


class SchedulerLease(models.Model):
    """The one row that says which scheduler sends the periodic jobs (image_editor.pipeline.scheduler)."""

    holder = models.CharField(max_length=255)  # the process, as image_editor.pipeline.holder names it
    expires_at = models.DateTimeField()

    class Meta:
        db_table = "scheduler_lease"

    def __str__(self) -> str:
        return self.holder


class MediaStore(models.Model):
    """What is known of a media host, if there are several (image_editor.pipeline.healing)."""

    name = models.CharField(max_length=255, primary_key=True)  # the host in its URL
    identity = models.UUIDField(default=uuid.uuid4)  # also a file on the host: another disk does not have it
    # The host was compared with the others up to this minute, in the form <day>/<minute>.
    compared_to = models.CharField(max_length=16, blank=True, default="")
    complete = models.BooleanField(default=False)  # it was compared up to the present once

    class Meta:
        db_table = "media_store"

    def __str__(self) -> str:
        return self.name


class MediaGap(models.Model):
    """A name in which a media host may differ from the others, because it was away when they stored or removed it.

    The edit's row says what the host should have. Without a row, the file was removed, or its row is yet to come:
    from ``final_at`` on, it was removed.
    """

    store = models.CharField(max_length=255)
    name = models.CharField(max_length=255)
    final_at = models.DateTimeField()

    class Meta:
        db_table = "media_gap"
        constraints = [models.UniqueConstraint(fields=["store", "name"], name="media_gap_once")]

    def __str__(self) -> str:
        return f"{self.name} on {self.store}"
