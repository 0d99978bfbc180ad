"""`python -m sightline.demo [detection]`: exits with 0 if the model reaches its goal within the budget."""

import sys

from sightline.demo.demos import FINDING, READING
from sightline.demo.runner import run


def main() -> None:
    """Runs the demo that the argument selects."""
    match sys.argv[1:]:
        case []:
            run(READING)
        case ["detection"]:
            run(FINDING)
        case _:
            sys.exit("usage: python -m sightline.demo [detection]")


if __name__ == "__main__":
    main()
