from django.conf import settings
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # A concurrent build cannot be part of a transaction. If it fails, it leaves an invalid index, and can be repeated.
    atomic = False
    expands = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ('image_editor', '0003_webhooks'),
    ]

    operations = [
        migrations.RunSQL('DROP INDEX CONCURRENTLY IF EXISTS callback_of_user', migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name='callback',
            index=models.Index(fields=['user', '-created_at', '-id'], name='callback_of_user'),
        ),
    ]
