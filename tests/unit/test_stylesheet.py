"""The one stylesheet: nothing in it is dead, and colours come from its tokens alone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STYLES = re.sub(r"/\*.*?\*/", "", (ROOT / "static/css/app.css").read_text(), flags=re.DOTALL)
SELECTORS = re.sub(r"\{[^{}]*\}", "{}", STYLES)
# Written as `status-{{ name }}` and the like, or set by htmx.
_PUT_TOGETHER = ("bar-", "chart-", "health-", "htmx-", "json-", "notice-", "plan-", "status-")


def _sources() -> str:
    files = [
        file
        for folder in ("templates", "webui", "static/js")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".html", ".py", ".js")
    ]
    return "\n".join(file.read_text() for file in files)


def test_every_class_and_id_of_the_stylesheet_is_used() -> None:
    sources = _sources()
    named = set(re.findall(r"[.#]([a-zA-Z][\w-]*)", SELECTORS))
    unused = {
        name
        for name in named
        if not name.startswith(_PUT_TOGETHER)
        and not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sources)
    }
    assert named
    assert unused == set()


def test_every_token_is_used_and_every_colour_is_a_token() -> None:
    tokens = set(re.findall(r"(--[\w-]+):", STYLES))
    assert tokens
    assert {token for token in tokens if f"var({token})" not in STYLES} == set()
    rules = STYLES[STYLES.index("[data-theme") :]
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", rules) == []


def test_no_rule_stands_there_twice() -> None:
    outside_media = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", STYLES)
    found = [" ".join(each.split()) for each in re.findall(r"([^{};]+)\{", outside_media)]
    assert sorted(set(found)) == sorted(found)
