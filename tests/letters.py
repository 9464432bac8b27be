"""Sends messages to many addresses in one process, as a messenger sends one, but without limits.

The addresses are JSON on standard input; prints what came of each.
"""

import json
import sys

from eventing.destinations.addresses import AddressGuard
from eventing.destinations.messenger import Letter, Watched, send


def main() -> None:
    watched = Watched(AddressGuard())
    whys = []
    for url in json.load(sys.stdin):
        watched.refused = watched.said = None
        whys.append(send(Letter(url, "title", "text", []), watched))
    json.dump(whys, sys.stdout)


if __name__ == "__main__":
    main()
