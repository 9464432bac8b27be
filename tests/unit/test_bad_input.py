"""Some of the bad input that `python -m tests.fuzz` has without end: no decoder and no parser ends
in anything but its own error, or takes long.
"""

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from eventing.configuration import parse
from eventing.definitions import parse_trigger
from eventing.problems import InvalidInput
from eventing.sources import pgoutput
from eventing.sources.myjson import json_of_binary
from tests.fuzz.targets import SEEDS, TARGETS

BOUNDED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FIELDS = tuple(
    """name url alias type headers tables databases operations backoff retries eventing retention
    projects triggers schemas""".split()  # noqa: SIM905 — a word each reads better
)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(
            some.sampled_from(FIELDS) | some.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", TARGETS)
@BOUNDED
@given(data=some.data())
def test_whatever_bytes_come_the_answer_is_a_value_or_the_error_that_is_meant(
    name: str, data: some.DataObject
) -> None:
    seeds = SEEDS[name]
    seed = data.draw(some.sampled_from([b"", *seeds]))
    cut = data.draw(some.integers(0, len(seed)))
    TARGETS[name](seed[:cut] + data.draw(some.binary(max_size=60)) + seed[cut:])


@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds], ids=repr
)
def test_what_is_almost_right_is_no_crash_either(name: str, seed: bytes) -> None:
    for end in range(len(seed) + 1):
        TARGETS[name](seed[:end])


@BOUNDED
@given(JSON)
def test_whatever_json_can_say_is_taken_or_refused_with_a_message(value: object) -> None:
    TARGETS["definitions"](json.dumps(value).encode())


@BOUNDED
@given(JSON)
def test_whatever_yaml_can_say_is_taken_or_refused_with_a_message(value: object) -> None:
    TARGETS["yaml_files"](json.dumps({"projects": value}).encode())


def quickly(act: Callable[[], object], error: type[Exception]) -> None:
    """`act` must raise `error`, and not after working for seconds (of this process's own time)."""
    begun = time.process_time()
    with pytest.raises(error):
        act()
    assert time.process_time() - begun < 5


def test_aliases_that_multiply_do_not_hang_yaml() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    quickly(lambda: parse("\n".join(["projects: 1", *lines]), {}), InvalidInput)
    nested = "projects:\n- name: shop\n" + "\n".join("  " + line for line in lines)
    quickly(lambda: parse(nested, {}), InvalidInput)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("projects:\n- name: a\n  triggers: []\n  triggers: []", "line 4: triggers"),
        ("projects: []\nprojects: []", "line 2: projects"),
        ("projects:\n- name: a\n  eventing: {db: a, enabled: true, db: b}", "line 3: db"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text, {})
    said = "got it a second time in one mapping; allowed: each field once"
    assert str(refused.value) == f"{told}: {said}"


def test_a_merge_may_give_what_the_mapping_gives_itself() -> None:
    text = "projects:\n- &a {name: shop, triggers: []}\n- {<<: *a, name: other}"
    assert [project.name for project in parse(text, {})] == ["shop", "other"]


@pytest.mark.parametrize("name", ["." * 1_000_000, "a\\nb", "\\ud800", ""])
def test_a_name_that_nobody_knows_is_told_on_one_short_line_at_once(name: str) -> None:
    quickly(lambda: parse(f'projects:\n- {{"{name}": 1}}', {}), InvalidInput)
    with pytest.raises(InvalidInput) as refused:
        parse(f'projects:\n- {{"{name}": 1}}', {})
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("url", ["ada:word@example.com", "ftp://ada:word@h", "https://ada:word@ h"])
def test_a_password_in_the_address_of_a_webhook_is_not_in_the_message(url: str) -> None:
    with pytest.raises(InvalidInput, match="url") as refused:
        parse_trigger({"name": "a", "operations": ["insert"], "url": url}, {})
    assert "word@" not in str(refused.value)


@pytest.mark.parametrize("deep", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000])
def test_what_is_nested_without_end_is_refused(deep: str) -> None:
    quickly(lambda: parse(deep, {}), InvalidInput)


def test_json_of_mysql_that_contains_itself_is_undecodable_and_takes_no_time() -> None:
    """An array whose only element is at its own place; and one that doubles at each level."""
    itself = b"\x02\x01\x00\x07\x00\x02\x00\x00"
    quickly(lambda: json_of_binary(itself), (ValueError, LookupError))  # type: ignore[arg-type]
    twice = b"\x02\x02\x00\x0a\x00\x02\x00\x00\x02\x00\x00"
    quickly(lambda: json_of_binary(twice), (ValueError, LookupError))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        b"I\0\0\x40\x10N\0\1t\0\0\0\1\xff",
        b"I\0\0\x40\x10N\0\1t\xff\xff\xff\xf0abc",
        b"R\0\0\x40\x10\xff\0t\0d\0\0",
    ],
)
def test_a_message_of_postgres_with_bytes_that_are_no_text_is_malformed(message: bytes) -> None:
    decode = pgoutput.relation if message[:1] == b"R" else pgoutput.row
    with pytest.raises(pgoutput.MalformedMessage):
        decode(message)


@pytest.mark.parametrize("field", ["name", "url", "tables", "headers"])
def test_half_a_surrogate_pair_is_refused_where_it_is_entered(field: str) -> None:
    broken = {"name": "a\ud800", "url": "https://e.com/\ud800", "tables": ["a\ud800"]}
    headers = {"headers": {"X-A": "a\ud800"}}
    good = {"name": "a", "operations": ["insert"], "url": "https://example.com"}
    with pytest.raises(InvalidInput, match=field):
        parse_trigger({**good, field: {**broken, **headers}[field]}, {})
