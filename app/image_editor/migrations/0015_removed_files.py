from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0014_revoked_tokens")]

    operations = [
        migrations.CreateModel(
            name="RemovedFile",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=255)),
            ],
            options={"db_table": "removed_file"},
        ),
    ]
