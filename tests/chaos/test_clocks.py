"""Clocks that are wrong, or jump, in one process: only the databases' clocks count."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.processes import ROOT
from demo.servers import RedisServer
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.stack import Stack
from tests.waiting import wait_until

PROCESSES = ("capture", "worker", "beat")
DAY = 86_400
# Longer than a message may be thought to be on its way.
FOUND_AGAIN_SECONDS = 30


class Clocks:
    """What time it is for each of some processes: off by so many seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in PROCESSES:
            self.set(name, 0)

    def set(self, name: str, seconds: int) -> None:
        draft = self._file(name).with_suffix(".draft")
        draft.write_text(f"{seconds}\n")
        draft.rename(self._file(name))

    def environment(self, name: str) -> dict[str, str]:
        wrong = Path(__file__).parent / "wrongclock"
        return {"PYTHONPATH": str(wrong), "CLOCK_FILE": str(self._file(name))}

    def _file(self, name: str) -> Path:
        return self._folder / name


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Clocks:
    return Clocks(tmp_path_factory.mktemp("clocks"))


@pytest.fixture(scope="module")
def environments(clocks: Clocks) -> dict[str, dict[str, str]]:
    """Of the processes whose clocks can be set."""
    return {name: clocks.environment(name) for name in PROCESSES}


@pytest.fixture(autouse=True)
def _right_again(clocks: Clocks) -> Iterator[None]:
    yield
    for name in PROCESSES:
        clocks.set(name, 0)


@pytest.mark.parametrize("off", [DAY, -DAY], ids=["a day ahead", "a day behind"])
def test_a_retry_comes_after_its_pause_whatever_the_worker_takes_for_now(
    off: int, stack: Stack, clocks: Clocks, source_database: str, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(statuses=(500, 200)))
    name, backoff = f"retry-{'ahead' if off > 0 else 'behind'}", {"initial_ms": 3000, "factor": 1}
    product = Product.of_orders(stack, name, source_database, receiver, backoff=backoff)
    clocks.set("worker", off)
    product.run_sql("INSERT INTO orders VALUES (1)")
    first, second, *_ = receiver.wait_for(2, "/all", timeout=FOUND_AGAIN_SECONDS)
    assert second.at - first.at > 3 * 0.8
    product.wait_for(delivered=1)
    product.disable()


@pytest.mark.parametrize("off", [DAY, -DAY], ids=["a day ahead", "a day behind"])
def test_what_the_broker_loses_is_found_again_whatever_capture_takes_for_now(
    off: int,
    stack: Stack,
    stack_redis: RedisServer,
    clocks: Clocks,
    source_database: str,
    receiver: Receiver,
) -> None:
    name = f"lost-{'ahead' if off > 0 else 'behind'}"
    product = Product.of_orders(stack, name, source_database, receiver)
    clocks.set("capture", off)
    before = lost_messages(stack)
    stack_redis.kill()
    product.run_sql("INSERT INTO orders VALUES (1)")
    wait_until(lambda: product.stats()["pending"] == 1, 20, "the event is not stored")
    wait_until(lambda: lost_messages(stack) > before, 20, "the message is not lost")
    stack_redis.start()
    receiver.wait_for(1, "/all", timeout=FOUND_AGAIN_SECONDS)
    product.wait_for(delivered=1)
    assert product.capture()["state"] == "streaming"
    product.disable()


@pytest.mark.parametrize("off", [3600, -3600], ids=["an hour ahead", "an hour back"])
def test_retries_go_on_when_the_clock_of_beat_jumps(
    off: int, stack: Stack, clocks: Clocks, source_database: str, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(statuses=(500, 500, 200)))
    name, backoff = f"beat-{'ahead' if off > 0 else 'back'}", {"initial_ms": 100, "factor": 1}
    product = Product.of_orders(stack, name, source_database, receiver, backoff=backoff)
    clocks.set("beat", off)
    product.run_sql("INSERT INTO orders VALUES (1)")
    receiver.wait_for(3, "/all", timeout=FOUND_AGAIN_SECONDS)
    product.disable()


def test_a_worker_two_months_ahead_forgets_nothing_that_is_to_be_kept(
    stack: Stack, clocks: Clocks, source_database: str, receiver: Receiver
) -> None:
    product = Product.of_orders(stack, "retention", source_database, receiver)
    product.run_sql("INSERT INTO orders VALUES (1)")
    product.wait_for(delivered=1)
    clocks.set("worker", 60 * DAY)
    # What a worker does every ten minutes.
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-c", "from eventing import tasks; tasks.upkeep()"],
        cwd=ROOT,
        env={**stack.process_environment, **clocks.environment("worker")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (event,) = product.events()
    assert product.event(event["id"])["payload"]["data"]["doc"] == {"id": 1}
    product.disable()


def lost_messages(stack: Stack) -> int:
    return stack.output("capture").count("the broker did not take a message")
