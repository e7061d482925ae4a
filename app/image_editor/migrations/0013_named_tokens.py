from django.db import migrations, models


class Migration(migrations.Migration):
    # Forwards, the SQL does nothing.
    expands = True

    dependencies = [("image_editor", "0012_uploads")]

    operations = [
        migrations.AddField("apitoken", "name", models.CharField(blank=True, db_default="", default="", max_length=64)),
        migrations.AddField(
            "apitoken",
            "scope",
            models.CharField(
                choices=[("read", "Read"), ("write", "Write")], db_default="write", default="write", max_length=5
            ),
        ),
        migrations.AddField("apitoken", "expires_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("apitoken", "lifetime", models.DurationField(blank=True, null=True)),
        migrations.AddField("apitoken", "last_used_at", models.DateTimeField(blank=True, null=True)),
        # Backwards, limited tokens are revoked. When the migration is applied again, nothing would limit them.
        migrations.RunSQL(
            migrations.RunSQL.noop, "DELETE FROM api_token WHERE scope <> 'write' OR expires_at IS NOT NULL"
        ),
    ]
