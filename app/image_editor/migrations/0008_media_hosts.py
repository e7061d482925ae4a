import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0007_scheduler_lease")]

    operations = [
        migrations.CreateModel(
            name="MediaStore",
            fields=[
                ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("identity", models.UUIDField(default=uuid.uuid4)),
                ("compared_to", models.CharField(blank=True, default="", max_length=16)),
                ("complete", models.BooleanField(default=False)),
            ],
            options={"db_table": "media_store"},
        ),
        migrations.CreateModel(
            name="MediaGap",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("store", models.CharField(max_length=255)),
                ("name", models.CharField(max_length=255)),
                ("final_at", models.DateTimeField()),
            ],
            options={
                "db_table": "media_gap",
                "constraints": [models.UniqueConstraint(fields=("store", "name"), name="media_gap_once")],
            },
        ),
    ]
