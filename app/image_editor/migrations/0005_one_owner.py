from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0004_callback_of_user")]

    operations = [
        migrations.AddField("edit", "faults", models.SmallIntegerField(default=0, db_default=0)),
        migrations.AddField("edit", "forgiven", models.SmallIntegerField(default=0, db_default=0)),
        migrations.AddField("edit", "requeued_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("edit", "holder", models.CharField(blank=True, db_default="", default="", max_length=255)),
    ]
