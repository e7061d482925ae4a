from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # A concurrent build cannot be part of a transaction.
    atomic = False

    dependencies = [("image_editor", "0016_token_parents")]

    operations = [
        AddIndexConcurrently(
            model_name="callback",
            index=models.Index(
                fields=["user", "-created_at", "-id"], condition=models.Q(("state", "dead")), name="callback_dead_of_user"
            ),
        ),
    ]
