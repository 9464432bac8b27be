"""How capture processes share databases."""

from eventing.sharing import (
    GIVE_EVERY_SECONDS,
    OTHERS_FIRST_SECONDS,
    PATIENCE_SECONDS,
    FairShare,
)


def test_one_process_takes_every_database_at_once() -> None:
    assert FairShare().to_take([1, 2, 3], own=0, databases=3, processes=1, now=0) == [1, 2, 3]


def test_of_two_processes_each_takes_half_and_the_odd_one_goes_to_whoever_is_first() -> None:
    assert FairShare().to_take([1, 2, 3], own=0, databases=3, processes=2, now=0) == [1, 2]


def test_a_process_without_databases_to_share_takes_none() -> None:
    assert FairShare().to_take([], own=0, databases=0, processes=0, now=0) == []


def test_what_nobody_else_takes_is_taken_beyond_the_share() -> None:
    share = FairShare()
    assert share.to_take([3, 4], own=2, databases=4, processes=2, now=0) == []
    assert share.to_take([4], own=2, databases=4, processes=2, now=1) == []
    # The third was taken in the meantime, and is free anew.
    later = OTHERS_FIRST_SECONDS
    assert share.to_take([3, 4], own=2, databases=4, processes=2, now=later) == [4]


def test_a_process_that_joins_is_given_databases_one_by_one_after_some_patience() -> None:
    share = FairShare()
    own = [1, 2, 3, 4]
    assert share.to_give(own, databases=4, processes=1, now=0) is None
    assert share.to_give(own, databases=4, processes=2, now=1) is None
    now = 1 + PATIENCE_SECONDS
    assert share.to_give(own, databases=4, processes=2, now=now) == 4
    assert share.to_give([1, 2, 3], databases=4, processes=2, now=now + 0.5) is None
    assert share.to_give([1, 2, 3], databases=4, processes=2, now=now + GIVE_EVERY_SECONDS) == 3
    assert share.to_give([1, 2], databases=4, processes=2, now=now + 60) is None


def test_a_process_that_died_and_was_replaced_costs_the_others_nothing() -> None:
    share = FairShare()
    # For twenty seconds there seem to be three.
    assert share.to_give([1, 2], databases=4, processes=3, now=0) is None
    assert share.to_give([1, 2, 3], databases=4, processes=3, now=19) is None
    assert share.to_give([1, 2], databases=4, processes=2, now=20) is None
    assert share.to_give([1, 2, 3], databases=4, processes=2, now=40) is None
