from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # A concurrent build cannot be part of a transaction.
    atomic = False

    dependencies = [("image_editor", "0010_metadata")]

    operations = [
        AddIndexConcurrently(
            model_name="edit",
            index=models.Index(
                fields=["user", "reference", "-accepted_at", "-id"],
                condition=models.Q(("reference__gt", "")),
                name="edit_by_reference",
            ),
        ),
    ]
