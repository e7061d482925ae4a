from django.conf import settings
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # A concurrent build cannot be part of a transaction.
    atomic = False

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ('image_editor', '0003_webhooks'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='callback',
            index=models.Index(fields=['user', '-created_at', '-id'], name='callback_of_user'),
        ),
    ]
