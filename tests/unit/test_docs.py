"""Readme and docs say what is so: links lead somewhere, and what they list is what the code has.

Addresses and metrics are held against the running API in tests/web.
"""

import re
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.core.management import get_commands
from playwright._impl._driver import compute_driver_executable

from demo.processes import procfile
from eventing.configuration import parse
from eventing.definitions import FORMATS, TROUBLE_KINDS
from eventing.problems import InvalidInput
from eventing.signing import new_secret, signature_headers
from tests.ports import free_port
from tests.waiting import wait_until
from webui.deeds import DEEDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
]
SETTINGS_MODULE = (ROOT / "config" / "settings.py").read_text()
ENDPOINTS = (DOCS / "guides" / "endpoints.md").read_text()


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [link for link in found if not link.startswith(("https://", "http://"))]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: str, language: str) -> str:
    """The page's only piece of code in `language`."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return textwrap.dedent(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading_that_are_there(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    for page in PAGES[1:]:
        assert linked & {page, page.parent}, page


def settings_read() -> set[str]:
    read = re.findall(r'\b_\w+\("([A-Z_]+)"', SETTINGS_MODULE)
    read += re.findall(r'"(OIDC_\w+)"', SETTINGS_MODULE)
    return set(read)


def test_the_reference_of_settings_names_each_and_no_other() -> None:
    table = (DOCS / "reference" / "settings.md").read_text()
    named = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", table, re.MULTILINE)
    of_procfile = re.findall(r"\$\{(\w+):-", " ".join(procfile().values()))
    assert set(re.findall(r"\w+", " ".join(named))) == settings_read() | set(of_procfile)


def test_commands_that_docs_name_exist_and_ours_are_in_the_reference() -> None:
    for page in PAGES:
        for name in re.findall(r"manage\.py ([a-z]\w+)", page.read_text()):
            assert name in get_commands(), (page, name)
    reference = (DOCS / "reference" / "commands.md").read_text()
    rows = dict(re.findall(r"^\| `python manage\.py (\w+)(.*)$", reference, re.MULTILINE))
    for file in (ROOT / "eventing" / "management" / "commands").glob("[a-z]*.py"):
        options = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', file.read_text())
        described = set(re.findall(r"--[a-z-]+", rows[file.stem]))
        assert set(options) == described, file.stem


def test_the_guide_to_the_audit_log_names_every_action_and_kind() -> None:
    page = (DOCS / "guides" / "members.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*`\1\..*) \|$", page, re.MULTILINE)
    named = {action for _, actions in rows for action in re.findall(r"`(\w+\.\w+)`", actions)}
    assert named == set(DEEDS)


def test_the_guide_to_notifications_names_every_trouble() -> None:
    page = (DOCS / "guides" / "notifications.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(rows) == set(TROUBLE_KINDS)


def test_the_reference_of_payloads_names_every_format() -> None:
    page = (DOCS / "reference" / "payload.md").read_text()
    formats = page.partition("## Formats")[2].partition("## Headers")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \|", formats, re.MULTILINE)
    assert rows == ["format", *FORMATS]


def configuration_example() -> str:
    page = (DOCS / "reference" / "configuration.md").read_text()
    example, _, _ = page[page.index("    projects:") :].partition("\n\n")
    return textwrap.dedent(example)


ENVIRONMENT = {"SHOP_DB_URL": "postgresql://reader:word@db.example.com/shop", "HOOK_TOKEN": "t"}


def test_the_example_of_a_configuration_file_is_one() -> None:
    (project,) = parse(configuration_example(), ENVIRONMENT)
    assert (project.name, project.triggers[0].name) == ("shop", "welcome-email")


@pytest.mark.parametrize("after", ["- name: shop", "- alias: main", "- name: welcome-email"])
def test_the_example_of_a_configuration_file_has_every_field(after: str) -> None:
    example = configuration_example()
    before, found, rest = example.partition(after)
    indent = " " * (len(before.splitlines()[-1]) + 2)
    with pytest.raises(InvalidInput) as refused:
        parse(f"{before}{found}\n{indent}no_such_field: 1{rest}", ENVIRONMENT)
    (problem,) = (each for each in refused.value.problems if "no_such_field" in each.field)
    for name in re.findall(r"\w+", problem.allowed.removeprefix("only")):
        assert re.search(rf"\b{name}:", example), name


def python_check() -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(code(ENDPOINTS, "python"), "endpoints.md", "exec"), names)
    check: Callable[..., Any] = names["is_genuine"]
    return check


def javascript_check(folder: Path) -> Callable[..., Any]:
    node, _ = compute_driver_executable()
    file = folder / "check.mjs"
    file.write_text(
        code(ENDPOINTS, "javascript")
        + "const [secret, headers, body] = JSON.parse(process.argv[2]);\n"
        "console.log(isGenuine(secret, headers, Buffer.from(body)));\n"
    )

    def check(secret: str, headers: dict[str, str], body: bytes) -> bool:
        given = orjson.dumps([secret, headers, body.decode()]).decode()
        done = subprocess.run([node, file, given], capture_output=True, text=True, check=True)
        return {"true\n": True, "false\n": False}[done.stdout]

    return check


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_what_the_guide_checks_signatures_with_takes_ours_and_no_others(
    language: str, tmp_path: Path
) -> None:
    check = python_check() if language == "python" else javascript_check(tmp_path)
    secret, other = new_secret(), new_secret()
    body = '{"name": "Dąbrowska"}'.encode()
    now = int(time.time())
    signed = dict(signature_headers("an-id", now, body, [other, secret]))
    assert check(secret, signed, body)
    assert check(other, signed, body)
    refused = [
        (new_secret(), signed, body),
        (secret, signed, body + b" "),
        (secret, signed | {"webhook-id": "another"}, body),
        (secret, signed | {"webhook-timestamp": str(now + 1)}, body),
        (secret, signed | {"webhook-timestamp": "soon"}, body),
        (secret, dict(signature_headers("an-id", now - 400, body, [secret])), body),
        (secret, {}, body),
    ]
    assert [check(*each) for each in refused] == [False] * len(refused)


def test_the_endpoint_of_the_tutorial_takes_a_request_and_prints_it() -> None:
    port = free_port()
    text = code((DOCS / "tutorial" / "first-trigger.md").read_text(), "python")
    assert "9999" in text
    command = [sys.executable, "-u", "-c", text.replace("9999", str(port))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as endpoint:
        try:

            def status() -> int:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/orders", b'{"id": "1"}')
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        return int(answer.status)
                except urllib.error.URLError:
                    return 0

            assert wait_until(status, 30, "the endpoint does not answer") == 204
            assert endpoint.stdout is not None
            assert endpoint.stdout.readline() == b'{"id": "1"}\n'
        finally:
            endpoint.kill()
