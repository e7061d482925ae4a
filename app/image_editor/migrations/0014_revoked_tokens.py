from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0013_named_tokens")]

    operations = [
        migrations.CreateModel(
            name="RevokedToken",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("revoked_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={"db_table": "revoked_token"},
        ),
    ]
