"""How bad input is reported: one message a field, with what was given and what is allowed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input.

    `field` is a dotted path (`triggers[0].retries`); `given` is repr-like text, never a secret.
    """

    field: str
    given: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.given}; allowed: {self.allowed}"


class InvalidInput(Exception):
    """Input that was refused; nothing has been changed."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
