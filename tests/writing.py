"""Writing that goes on beside a test, in a thread of its own."""

from abc import ABC, abstractmethod
from threading import Event, Thread
from typing import Self


class BackgroundWriter(ABC):
    """Writes for as long as its `with` lasts, and has ended when that is left."""

    def __init__(self) -> None:
        self.stopping = Event()
        self._thread = Thread(target=self.write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._thread.join()

    @abstractmethod
    def write(self) -> None:
        """Write until `stopping` is set."""
