import uuid

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('image_editor', '0002_fewer_indexes'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='WebhookSecret',
            fields=[
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='webhook_secret', serialize=False, to=settings.AUTH_USER_MODEL)),
                ('seed', models.UUIDField(default=uuid.uuid4)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('former_seed', models.UUIDField(null=True)),
                ('former_expires_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'webhook_secret',
            },
        ),
        migrations.AddField(
            model_name='callback',
            name='user',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='callbacks', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='callback',
            name='attempts',
            field=models.JSONField(db_default=models.Value([], models.JSONField()), default=list),
        ),
    ]
