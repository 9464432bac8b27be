from django.db import migrations, models

TYPES = [
    ('postgres', 'postgres'),
    ('mysql', 'mysql'),
    ('mongodb', 'mongodb'),
    ('mission-control', 'mission-control'),
]


def remove_databases(apps, schema_editor):
    """Take away what the version before could not read. A trigger on nothing else stays, disabled,
    since without a database it would mean all of them."""
    Database = apps.get_model('eventing', 'Database')
    for database in Database.objects.filter(type='mission-control'):
        for trigger in database.triggers.all():
            if not trigger.databases.exclude(type='mission-control').exists():
                trigger.state = 'disabled'
                trigger.save(update_fields=['state'])
        database.delete()
    apps.get_model('eventing', 'RetiredSource').objects.filter(type='mission-control').delete()
    # No table is altered while checks of it are put off.
    schema_editor.execute('SET CONSTRAINTS ALL IMMEDIATE')


class Migration(migrations.Migration):

    dependencies = [
        ('eventing', '0012_hindered_processes'),
    ]

    operations = [
        migrations.AddField(
            model_name='trouble',
            name='begun_as',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='trouble',
            name='ended_as',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddIndex(
            model_name='trouble',
            index=models.Index(fields=['project', 'begun_as'], name='trouble_begun'),
        ),
        migrations.AddIndex(
            model_name='trouble',
            index=models.Index(fields=['project', 'ended_as'], name='trouble_ended'),
        ),
        migrations.CreateModel(
            name='TroubleNumber',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('latest', models.BigIntegerField()),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='trouble_number_is_one_row')],
            },
        ),
        migrations.CreateModel(
            name='TroubleReader',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('source_name', models.CharField(max_length=63, unique=True)),
                ('project_id', models.BigIntegerField()),
                ('position', models.BigIntegerField()),
                ('forgotten', models.BigIntegerField(db_default=0, default=0)),
            ],
        ),
        migrations.AlterField(
            model_name='database',
            name='type',
            field=models.CharField(choices=TYPES, max_length=16),
        ),
        migrations.AlterField(
            model_name='eventingdb',
            name='type',
            field=models.CharField(choices=TYPES, max_length=16),
        ),
        migrations.AlterField(
            model_name='retiredsource',
            name='type',
            field=models.CharField(choices=TYPES, max_length=16),
        ),
        migrations.RunPython(migrations.RunPython.noop, remove_databases),
    ]
