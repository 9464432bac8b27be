"""Prepares the demo's databases: the product's tables, an administrator, the shop, the project.

Everything here may run again. The project is written only when the demo's own file or addresses
have changed, so what was edited in the console outlives a restart.
"""

import os
import sys
from pathlib import Path
from typing import Final

import django
from django.core.management import CommandError, call_command

from demo.servers import execute

_FOLDER: Final = Path(__file__).resolve().parent


def main(applied: Path) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    call_command("migrate", verbosity=0)
    _make_administrator(os.environ["DEMO_PASSWORD"])
    execute(os.environ["SHOP_DB_URL"], (_FOLDER / "shop.sql").read_text())
    _apply_project(applied)


def _make_administrator(password: str) -> None:
    from django.contrib.auth import get_user_model

    users = get_user_model().objects
    if not users.filter(username="admin").exists():
        users.create_superuser("admin", "admin@example.com", password)


def _apply_project(applied: Path) -> None:
    receiver, shop_port = os.environ["RECEIVER_URL"], os.environ["SHOP_DB_URL"].split(":")[-1]
    text = (_FOLDER / "demo.yaml").read_text().replace("url: http://receiver", f"url: {receiver}")
    text = f"# As `bin/demo` applied it, the shop being at {shop_port}.\n{text}"
    if applied.exists() and applied.read_text() == text:
        return
    draft = applied.with_suffix(".draft.yaml")
    draft.write_text(text)
    with open(os.devnull, "w") as nowhere:
        call_command("apply", str(draft), stdout=nowhere)
    draft.rename(applied)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except CommandError as error:
        sys.exit(str(error))
