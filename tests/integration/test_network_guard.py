"""Nothing inside is reached, however its address is written, named, redirected to or rebound.

On a network of its own (tests/island.py) every address is this machine's, and an endpoint at each
of them says who was let through. Names are answered by a DNS server of the tests' own.
"""

from collections import Counter
from typing import Any

import pytest

from eventing.definitions import parse_trigger
from eventing.problems import InvalidInput
from tests.island import PORT, SILENCE, on_the_island
from tests.unit.test_addresses import REFUSED

PUBLIC = "93.184.215.14"
PUBLIC_6 = "2606:2800:21f:cb07::1"
# At which nobody answers, in some tests.
DEAD = [f"93.184.216.{number}" for number in range(1, 13)]
TRIGGER = {"name": "hook", "operations": ["insert"]}

# Other ways to write an address inside, as the host of a URL.
SPELLINGS = [
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "0177.0000.0000.0001",
    "017700000001",
    "2130706433",
    "0x7f000001",
    "0x7F.0x0.0x0.0x1",
    "0x7f.1",
    "127.0.0.1.",
    "127.00.00.01",
    "0",
    "0.0.0.0",
    "00000000",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "foo.localhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[::1%25lo]",
    "[fd00:ec2::254]",
    "0251.0376.0251.0376",
    "0xA9FEA9FE",
    "2852039166",
    "169.254.43518",
    "169.254.169.254.",
    "[::ffff:169.254.169.254]",
    "10.1",
    "167772161",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    # Full-width and circled digits, and the other full stops.
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "127\uff0e0\uff0e0\uff0e1",
    "127｡0｡0｡1",
    "ⓛocalhost",
    "loc­alhost",
]
# Whole URLs that parsers read differently.
CONFUSING = [
    f"http://{PUBLIC}@127.0.0.1:{PORT}/",
    f"http://{PUBLIC}:80@127.0.0.1:{PORT}/",
    f"http://127.0.0.1:{PORT}\\@{PUBLIC}/",
    f"http://{PUBLIC}\\@127.0.0.1:{PORT}/",
    f"http://127.0.0.1:{PORT}#@{PUBLIC}/",
    f"http://127.0.0.1:{PORT}?@{PUBLIC}/",
    f"http:\\\\127.0.0.1:{PORT}/",
    f"http:///127.0.0.1:{PORT}/",
    f"http:127.0.0.1:{PORT}/",
    f"//127.0.0.1:{PORT}/",
    f"127.0.0.1:{PORT}",
    f"http://127.0.0.1:{PORT}\t/",
    f"http://127.0.\n0.1:{PORT}/",
    f"http://127.0.\t0.1:{PORT}/",
    f" http://127.0.0.1:{PORT}/",
    f"http://\x00127.0.0.1:{PORT}/",
    f"http://[127.0.0.1]:{PORT}/",
    f"http://[::1]:{PORT}@{PUBLIC}/",
    f"http://127.0.0.1:{PORT}:80/",
    f"gopher://127.0.0.1:{PORT}/_x",
    f"dict://127.0.0.1:{PORT}/x",
    f"ftp://127.0.0.1:{PORT}/x",
    f"telnet://127.0.0.1:{PORT}/",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "http+unix://%2fvar%2frun%2fdocker.sock/",
]
# What the tests' DNS server says; a name may lead to another one.
NAMES: dict[str, list[Any]] = {
    "loopback.test": [["127.0.0.1"]],
    "loopback6.test": [["::1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "metadata.test": [["169.254.169.254"]],
    "metadata6.test": [["fd00:ec2::254"]],
    "private.test": [["10.0.0.5", "192.168.1.1", "172.16.0.1"]],
    "shared.test": [["100.64.0.1"]],
    "mapped.test": [["::ffff:7f00:1"]],
    "nat64.test": [["64:ff9b::7f00:1"]],
    "teredo.test": [["2001:0:7f00:1::"]],
    "6to4.test": [["2002:7f00:1::"]],
    "chain.test": [["chain-2.test"]],
    "chain-2.test": [["chain-3.test"]],
    "chain-3.test": [["loopback.test"]],
    "both.test": [["127.0.0.1", "::1"]],
}


def url_of(host: str) -> str:
    return f"http://{host}:{PORT}/hook"


def literal(address: str) -> str:
    return f"[{address.replace('%', '%25')}]" if ":" in address else address


def taught(names: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "answers": answers} for name, answers in names.items()]


ALL_INSIDE = [
    *(url_of(literal(address)) for address in REFUSED),
    *(url_of(host) for host in SPELLINGS),
    *CONFUSING,
    *(url_of(name) for name in NAMES),
]


@pytest.fixture(scope="module")
def tried() -> dict[str, tuple[str | None, int | None]]:
    """What came of each of ALL_INSIDE; fails if any of them got through to anything inside."""
    [result] = on_the_island(*taught(NAMES), {"send": ALL_INSIDE})
    assert result["knocked_at"] == []
    return dict(zip(ALL_INSIDE, zip(result["kinds"], result["statuses"], strict=True), strict=True))


@pytest.mark.parametrize("url", ALL_INSIDE, ids=ascii)
def test_nothing_inside_is_reached(
    url: str, tried: dict[str, tuple[str | None, int | None]]
) -> None:
    kind, status = tried[url]
    assert status is None
    if kind == "refused":
        # libcurl reads the address outside in it, where nobody listens at port 80.
        assert PUBLIC in url
    else:
        assert kind in ("forbidden_address", "connection", "protocol", "dns")


@pytest.mark.parametrize("url", CONFUSING, ids=ascii)
def test_what_parsers_read_differently_is_refused_when_it_is_entered_or_reaches_nothing(
    url: str, tried: dict[str, tuple[str | None, int | None]]
) -> None:
    try:
        parse_trigger({**TRIGGER, "url": url}, {})
    except InvalidInput as refused:
        problems = refused.problems
    else:
        problems = ()
    assert problems or tried[url][1] is None


def test_an_address_outside_is_reached_by_number_and_by_name() -> None:
    names = {
        "outside.test": [[PUBLIC]],
        "outside6.test": [[PUBLIC_6]],
        "far.test": [["outside.test"]],
    }
    hosts = [PUBLIC, f"[{PUBLIC_6}]", *names]
    [result] = on_the_island(*taught(names), {"send": [url_of(host) for host in hosts]})
    assert result["statuses"] == [200] * len(hosts)
    assert set(result["knocked_at"]) == {PUBLIC, PUBLIC_6}


def test_a_name_that_is_bound_anew_after_a_look_up_is_refused_at_its_next_connection() -> None:
    names: dict[str, list[Any]] = {"rebound.test": [[PUBLIC], ["127.0.0.1"]]}
    send = {"send": [url_of("rebound.test")]}
    first, second = on_the_island(*taught(names), send, send)
    assert (first["statuses"], first["knocked_at"]) == ([200], [PUBLIC])
    assert (second["kinds"], second["knocked_at"]) == (["forbidden_address"], [])
    assert "127.0.0.1 is a loopback address" in second["messages"][0]


def test_of_a_name_s_addresses_only_those_outside_are_used() -> None:
    names: dict[str, list[Any]] = {"mixed.test": [["127.0.0.1", "::1", "fd00:ec2::254", PUBLIC]]}
    [result] = on_the_island(*taught(names), {"send": [url_of("mixed.test")] * 20})
    assert set(result["knocked_at"]) == {PUBLIC}
    assert result["statuses"] == [200] * 20


def test_a_redirect_to_an_address_inside_is_not_followed() -> None:
    targets = ["http://127.0.0.1:8080/", "//169.254.169.254:8080/", "http://loopback.test:8080/"]
    urls = [f"http://{PUBLIC}:{PORT}/?to={target}" for target in targets]
    [result] = on_the_island(*taught(NAMES), {"send": urls})
    assert result["statuses"] == [307] * len(urls)
    assert set(result["knocked_at"]) == {PUBLIC}


def test_networks_that_are_exempt_are_reached_and_their_neighbours_are_not() -> None:
    urls = [url_of(host) for host in ("10.1.2.3", "[::ffff:10.1.2.3]", "10.2.0.1", "127.0.0.1")]
    [result] = on_the_island({"send": urls, "allowed": ["10.1.0.0/16"]})
    assert result["statuses"] == [200, 200, None, None]
    assert set(result["knocked_at"]) == {"10.1.2.3"}


def test_names_whose_dns_server_is_silent_hold_nobody_else_up() -> None:
    silent = {f"silent-{number}.test": [SILENCE] for number in range(100)}
    names: dict[str, list[Any]] = {**silent, "outside.test": [[PUBLIC]]}
    urls = [*(url_of(name) for name in silent for _ in range(3)), url_of("outside.test")]
    [result] = on_the_island(*taught(names), {"send": urls, "timeout_ms": 300})
    assert Counter(result["kinds"]) == {"dns": 300, None: 1}
    assert result["statuses"][-1] == 200
    assert result["messages"][0] == "the name silent-0.test was not resolved within 300 ms"


def test_of_a_name_s_addresses_those_that_do_not_answer_cost_no_more_than_the_time_there_is() -> (
    None
):
    names: dict[str, list[Any]] = {
        "mixed.test": [[*DEAD[:3], PUBLIC]],
        "dead.test": [DEAD],
    }
    mixed, dead = on_the_island(
        {"dead": DEAD},
        *taught(names),
        {"send": [url_of("mixed.test")] * 3, "timeout_ms": 5000},
        {"send": [url_of("dead.test")], "timeout_ms": 1000},
    )
    assert mixed["statuses"] == [200] * 3
    assert set(mixed["knocked_at"]) == {PUBLIC}
    assert dead["kinds"] == ["timeout"]
    assert 1000 <= dead["durations_ms"][0] < 1500


# An address of each service whose host is one's own, and a plain webhook.
ANNOUNCED = (
    "http://{}/hook",
    "mmost://{}/abcdefghijklmnopqrstuvwxyz",
    "rocket://user:word@{}/#room",
    "ntfy://{}/topic",
    "gotify://{}/abcdefghijklmno",
    "matrix://user:word@{}/#room",
    "workflow://{}/abcdefgh/ijklmnopqr",
    "mailto://user:word@{}?from=a@example.com&to=b@example.com",
)


@pytest.fixture(scope="module")
def announced() -> dict[str, str | None]:
    """What came of a message to each of ALL_ANNOUNCED; fails if any of them got through."""
    [result] = on_the_island(*taught(NAMES), {"letters": ALL_ANNOUNCED})
    assert result["knocked_at"] == []
    return dict(zip(ALL_ANNOUNCED, result["whys"], strict=True))


ALL_ANNOUNCED = [
    *(
        form.format(f"{host}:{PORT}")
        for form in ANNOUNCED
        for host in [*map(literal, REFUSED), *NAMES, "2130706433", "0x7f.1", "127.1", "localhost"]
    ),
    *(url_of(host) for host in SPELLINGS),
    *CONFUSING,
]


@pytest.mark.parametrize("url", ALL_ANNOUNCED, ids=ascii)
def test_no_message_reaches_anything_inside(url: str, announced: dict[str, str | None]) -> None:
    assert announced[url]


@pytest.mark.parametrize("form", ANNOUNCED)
def test_a_message_follows_no_name_that_is_bound_anew_inside(form: str) -> None:
    names: dict[str, list[Any]] = {
        "rebound.test": [[PUBLIC], ["127.0.0.1"]],
        "out.test": [[PUBLIC]],
    }
    url = form.format(f"rebound.test:{PORT}")
    outside, first, second = on_the_island(
        *taught(names),
        {"announce": [form.format(f"out.test:{PORT}")]},
        {"announce": [url]},
        {"announce": [url]},
    )
    assert set(outside["knocked_at"]) == {PUBLIC}
    assert set(first["knocked_at"]) <= {PUBLIC}
    assert second["knocked_at"] == []
    assert "nothing is sent there" in second["whys"][0]
