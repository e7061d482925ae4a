from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0009_output")]

    operations = [
        migrations.AddField(
            model_name="edit",
            name="metadata",
            field=models.JSONField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="edit",
            name="reference",
            field=models.CharField(blank=True, db_default="", default="", max_length=200),
        ),
    ]
