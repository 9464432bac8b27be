from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('eventing', '0005_redeliveries'),
    ]

    operations = [
        migrations.AddField(
            model_name='membership',
            name='sees_payloads',
            field=models.BooleanField(db_default=True, default=True),
        ),
    ]
