from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0008_media_hosts")]

    operations = [
        migrations.AddField(
            model_name="edit",
            name="output",
            field=models.JSONField(blank=True, null=True),
        ),
    ]
