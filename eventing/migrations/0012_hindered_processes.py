from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('eventing', '0011_redelivery_totals'),
    ]

    operations = [
        migrations.AddField(
            model_name='heartbeat',
            name='hindrance',
            field=models.CharField(db_default='', max_length=200),
        ),
    ]
