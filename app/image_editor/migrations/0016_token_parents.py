import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0015_removed_files")]

    operations = [
        migrations.AddField(
            "apitoken",
            name,
            models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                editable=False,
                null=True,
                on_delete=on_delete,
                related_name=related_name,
                to="image_editor.apitoken",
            ),
        )
        for name, on_delete, related_name in (
            ("parent", django.db.models.deletion.CASCADE, "children"),
            ("replaced_by", django.db.models.deletion.SET_NULL, "+"),
        )
    ]
