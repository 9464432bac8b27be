"""Where claims of what is due begin: each row is looked at once, and yet none is left."""

from bisect import bisect_right

from eventing.logs.places import Due, Places


class Queue:
    """What is due, in order, and which looks were made at it."""

    def __init__(self, count: int) -> None:
        self.rows = [(number, number) for number in range(count)]
        self.looks: list[Due | None] = []
        self.now = 0.0
        self.look_seconds = 0.0
        self.places = Places(lambda: self.now)

    def take(self, limit: int) -> list[int]:
        def find(place: Due | None) -> list[Due]:
            self.looks.append(place)
            self.now += self.look_seconds
            first = bisect_right(self.rows, tuple(place)) if place else 0
            return list(self.rows[first : first + limit])

        taken = [row[0] for row in self.places.find(7, limit, find)]
        self.rows = [row for row in self.rows if row[0] not in taken]
        return taken


def test_each_claim_goes_on_behind_the_one_before() -> None:
    queue = Queue(10)
    assert [queue.take(3) for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert queue.looks == [None, (2, 2), (5, 5)]


def test_the_last_claim_looks_from_the_beginning_and_the_next_one_too() -> None:
    queue = Queue(7)
    queue.take(3)
    queue.rows.insert(0, (-1, -1))
    assert [queue.take(3) for _ in range(3)] == [[3, 4, 5], [-1, 6], []]
    assert queue.looks == [None, (2, 2), (5, 5), None, None]


def test_what_came_before_the_place_waits_a_second_while_others_are_many() -> None:
    queue = Queue(100)
    queue.take(10)
    queue.rows.insert(0, (-1, -1))
    queue.now = 0.9
    assert queue.take(10) == list(range(10, 20))
    queue.now = 1.0
    assert queue.take(10) == [-1, *range(20, 29)]


def test_looks_from_the_beginning_that_take_long_are_made_the_more_seldom() -> None:
    queue = Queue(1000)
    queue.look_seconds = 0.5
    queue.take(10)
    queue.look_seconds = 0.0
    queue.now += 49.4
    queue.take(10)
    assert queue.looks == [None, (9, 9)]
    queue.now += 0.1
    queue.take(10)
    assert queue.looks[2] is None


def test_triggers_have_places_of_their_own() -> None:
    places = Places(lambda: 0.0)
    places.find(1, 1, lambda _: [("a", 1)])
    assert places.find(2, 1, lambda place: [] if place is None else [place]) == []
