from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('eventing', '0013_troubles_as_a_source'),
    ]

    operations = [
        migrations.AddField(
            model_name='capturelease',
            name='kept_log_bytes',
            field=models.BigIntegerField(null=True),
        ),
    ]
