from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0017_dead_callbacks")]

    # Only the names of the choices change. An earlier release lets a token of the new scope only read.
    operations = [
        migrations.AlterField(
            "apitoken",
            "scope",
            models.CharField(
                choices=[("read", "Read"), ("work", "Read and write, for a program"), ("write", "Write")],
                db_default="write",
                default="write",
                max_length=5,
            ),
        )
    ]
