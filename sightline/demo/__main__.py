"""`python -m sightline.demo [detection]`: ends with 0 if quality and budget are as promised."""

import sys

from sightline.demo.stories import FINDING, READING
from sightline.demo.story import tell


def main() -> None:
    """Tells the story that is asked for."""
    match sys.argv[1:]:
        case []:
            tell(READING)
        case ["detection"]:
            tell(FINDING)
        case _:
            sys.exit("usage: python -m sightline.demo [detection]")


if __name__ == "__main__":
    main()
