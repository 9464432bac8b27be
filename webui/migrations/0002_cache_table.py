"""Where all web processes keep, for minutes, which second factors were used and how often."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("webui", "0001_initial")]

    operations = [
        migrations.RunSQL(
            """
            CREATE TABLE IF NOT EXISTS webui_cache (
                cache_key varchar(255) PRIMARY KEY,
                value text NOT NULL,
                expires timestamptz NOT NULL
            );
            CREATE INDEX IF NOT EXISTS webui_cache_expires ON webui_cache (expires);
            """,
            "DROP TABLE IF EXISTS webui_cache",
        )
    ]
