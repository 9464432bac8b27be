"""Workers that share a trigger's limits through one ledger, at made-up times."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from eventing.allotments import HOLDS_SECONDS, Ask, Ledger


def ask(concurrency: int = 10, *, rate: int = 0, under_way: int = 0, turns: int = 0) -> Ask:
    return Ask(1, concurrency, rate, under_way, True, turns)


IDLE = Ask(1, 10, 0, 0, wants_slots=False)


def test_one_worker_has_all_slots_and_two_share_them() -> None:
    ledger = Ledger()
    assert ledger.allot("a", ask(), 0.0).slots == 10
    # What the first one has under way cannot be taken back.
    assert ledger.allot("b", ask(), 0.1).slots == 0
    assert ledger.allot("a", ask(under_way=8), 0.2).slots == 5
    assert ledger.allot("b", ask(), 0.3).slots == 2
    assert ledger.allot("a", ask(under_way=5), 0.4).slots == 5
    assert ledger.allot("b", ask(under_way=2), 0.5).slots == 5
    assert ledger.allot("b", IDLE, 0.6).slots == 0
    assert ledger.allot("a", ask(under_way=5), 0.7).slots == 10


def test_a_worker_that_vanished_holds_its_slots_for_a_while() -> None:
    ledger = Ledger()
    ledger.allot("a", ask(), 0.0)
    assert ledger.allot("b", ask(), HOLDS_SECONDS - 0.1).slots == 0
    assert ledger.allot("b", ask(), HOLDS_SECONDS + 0.1).slots == 10


def test_one_slot_goes_round_among_the_workers() -> None:
    ledger = Ledger()
    had = set()
    for tenth in range(40):
        for who in "abc":
            if ledger.allot(who, ask(1), tenth / 10).slots:
                had.add(who)
    assert had == {"a", "b", "c"}


@given(
    concurrency=st.integers(1, 20),
    asks=st.lists(
        st.tuples(st.sampled_from("abcd"), st.floats(0, 0.9), st.booleans(), st.integers(0, 20)),
        max_size=100,
    ),
)
def test_never_are_more_requests_under_way_than_the_concurrency(
    concurrency: int, asks: list[tuple[str, float, bool, int]]
) -> None:
    ledger = Ledger()
    now = 0.0
    under_way = dict.fromkeys("abcd", 0)
    for who, later, wants, begins in asks:
        now += later
        # A live worker asks before what it holds runs out.
        for other in "abcd":
            renewed = Ask(1, concurrency, 0, under_way[other], under_way[other] > 0)
            slots = ledger.allot(other, renewed, now).slots
        given_slots = ledger.allot(who, Ask(1, concurrency, 0, under_way[who], wants), now).slots
        begun = min(begins, max(0, given_slots - under_way[who]))
        finished = 0 if begun else begins
        under_way[who] = max(0, under_way[who] + begun - finished)
        assert sum(under_way.values()) <= concurrency
        assert slots <= concurrency


@given(
    rate=st.integers(1, 500),
    waits=st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.001, 0.5)), min_size=1),
)
def test_turns_keep_to_the_rate_over_any_time(rate: int, waits: list[tuple[str, float]]) -> None:
    ledger = Ledger()
    now, begun = 100.0, 0
    for who, later in waits:
        begun += ledger.allot(who, ask(rate=rate, turns=1000), now).turns
        assert begun <= rate * (now - 100.0) + max(rate * 0.2, 1) + 1e-6
        now += later


def test_who_asks_often_gets_the_whole_rate_and_hears_when_to_come_back() -> None:
    ledger = Ledger()
    now, begun = 0.0, 0
    while now < 30:
        allotment = ledger.allot("a", ask(rate=50, turns=64), now)
        begun += allotment.turns
        assert 0 < allotment.again_in_seconds <= 1 / 50 + 1e-9
        now += max(0.02, allotment.again_in_seconds)
    assert 1500 <= begun <= 1500 + 10 + 1


def test_a_ledger_is_the_same_after_it_was_stored() -> None:
    ledger = Ledger()
    ledger.allot("a", ask(rate=3, turns=1), 5.0)
    stored = orjson.loads(orjson.dumps(ledger.to_json()))
    assert Ledger.from_json(stored) == ledger
    assert Ledger.from_json({}) == Ledger()
