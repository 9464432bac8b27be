"""One row of a Postgres table, as capture would show it: for the sample payload.

The contract defines the document as what `to_jsonb` gives, so the server is asked for just that.
"""

from typing import Final

import orjson
from psycopg2 import sql
from psycopg2.extensions import connection

from eventing.sources.base import Sample

_LONGEST_MS: Final = 2000
# The columns of the `docId`, in order: `id` if there is one, else the primary key's.
_IDENTITY: Final = """
SELECT a.attname::text
FROM pg_attribute AS a
LEFT JOIN pg_index AS i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
  AND (a.attname = 'id' OR a.attnum = ANY (i.indkey::int2[]))
ORDER BY a.attname <> 'id', array_position(i.indkey::int2[], a.attnum)
"""


def sample(opened: connection, table: str) -> Sample | None:
    """Some row of the table, named as in `data.col`; None if it has none. Raises psycopg2.Error."""
    schema, _, name = table.rpartition(".")
    place = sql.Identifier(schema or "public", name)
    with opened.cursor() as at:
        at.execute("SET default_transaction_read_only = on")
        at.execute("SELECT set_config('statement_timeout', %s, false)", [str(_LONGEST_MS)])
        at.execute(_IDENTITY, [place.as_string(at)])
        identity = [column for (column,) in at.fetchall()]
        if "id" in identity:
            identity = ["id"]
        keys = sql.SQL(", ").join(
            [
                sql.SQL("to_jsonb(t) ->> {0}, (to_jsonb(t) -> {0})::text").format(sql.Literal(each))
                for each in identity
            ]
            or [sql.SQL("NULL")]
        )
        at.execute(sql.SQL("SELECT to_jsonb(t)::text, {} FROM {} AS t LIMIT 1").format(keys, place))
        row = at.fetchone()
    if row is None:
        return None
    document, *values = row
    if len(identity) < 2:
        return Sample(table, values[0] or "", document)
    pairs = zip(identity, values[1::2], strict=True)
    text = ",".join(f"{orjson.dumps(column).decode()}:{value}" for column, value in pairs)
    return Sample(table, "{" + text + "}", document)
