"""A process that promotes versions in turn, as hosts do: `mover.py <name> <rounds> <version>…`."""

import sys

from mlflow import MlflowClient

from slmflow.registry.aliases import Moved, promote, repair, standing
from slmflow.registry.versions import registry_lock


def main(name, rounds, *numbers):
    client, moved = MlflowClient(), 0
    for turn in range(int(rounds)):
        with registry_lock(name):
            try:
                repair(client, name, lambda version: True)
                seen = standing(client, name).champion
                promote(client, name, numbers[turn % len(numbers)], seen, lambda version: True)
            except Moved:
                moved += 1
    print(moved)


main(*sys.argv[1:])
