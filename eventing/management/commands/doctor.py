"""`manage.py doctor`: every prerequisite of every database, with the fix."""

import dataclasses
from argparse import ArgumentParser
from typing import Any, Final

import orjson
from django.core.management.base import CommandError

from eventing.changes import Finding
from eventing.doctor import check_database, passes
from eventing.management.control import ControlCommand
from eventing.models import Database, Project

_MARKS: Final = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


class Command(ControlCommand):
    help = "Check every prerequisite of every database; exit 1 if one fails."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", help="only this project's databases")
        parser.add_argument("--database", help="only databases with this alias")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *_: Any, **options: Any) -> None:
        databases = Database.objects.select_related("project").order_by("project__name", "alias")
        if project := options["project"]:
            if not Project.objects.filter(name=project).exists():
                raise CommandError(
                    f"--project: got {project!r}; allowed: an existing project's name"
                )
            databases = databases.filter(project__name=project)
        if alias := options["database"]:
            databases = databases.filter(alias=alias)
            if not databases:
                among = f"of {project}" if project else "of a database"
                raise CommandError(f"--database: got {alias!r}; allowed: an alias {among}")
        findings = {database: check_database(database) for database in databases}
        if options["json"]:
            self._print_json(findings)
        else:
            self._print_text(findings)
        if not all(passes(found) for found in findings.values()):
            raise SystemExit(1)

    def _print_json(self, findings: dict[Database, list[Finding]]) -> None:
        document = [
            {
                "project": database.project.name,
                "database": database.alias,
                "ok": passes(found),
                "findings": [dataclasses.asdict(finding) for finding in found],
            }
            for database, found in findings.items()
        ]
        self.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())

    def _print_text(self, findings: dict[Database, list[Finding]]) -> None:
        for database, found in findings.items():
            self.stdout.write(f"{database.project.name}/{database.alias}")
            for finding in found:
                self.stdout.write(f"  {_MARKS[finding.status]} {finding.name}: {finding.what}")
                if finding.status != "ok":
                    for line in (finding.why, finding.mend and f"mend: {finding.mend}"):
                        if line:
                            self.stdout.write(f"          {line}")
                    if finding.restart:
                        self.stdout.write("          then restart the server")
