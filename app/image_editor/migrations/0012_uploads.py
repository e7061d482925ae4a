import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("image_editor", "0011_edit_by_reference"),
    ]

    operations = [
        migrations.CreateModel(
            name="Upload",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=255)),
                ("content_type", models.CharField(max_length=50)),
                ("bytes", models.PositiveIntegerField()),
                ("accepted_at", models.DateTimeField()),
                ("used_at", models.DateTimeField()),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="uploads",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "upload",
                "indexes": [
                    models.Index(fields=["user", "-accepted_at", "-id"], name="upload_of_user"),
                    models.Index(fields=["used_at"], name="upload_by_use"),
                ],
            },
        ),
    ]
