from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("image_editor", "0006_ended_edits_of_user")]

    operations = [
        migrations.CreateModel(
            name="SchedulerLease",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("holder", models.CharField(max_length=255)),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "db_table": "scheduler_lease",
            },
        ),
    ]
