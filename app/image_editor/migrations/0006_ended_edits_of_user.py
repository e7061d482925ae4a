from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # A concurrent build cannot be part of a transaction.
    atomic = False

    dependencies = [("image_editor", "0005_one_owner")]

    operations = [
        AddIndexConcurrently(
            model_name="edit",
            index=models.Index(
                fields=["user", "status", "-accepted_at", "-id"],
                condition=models.Q(("status__in", ("succeeded", "failed", "cancelled"))),
                name="edit_ended_of_user",
            ),
        ),
    ]
