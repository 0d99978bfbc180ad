"""Building takes minutes and gigabytes: these tests run only when they are asked for, by `make test-images`."""

import sys

collect_ignore_glob = [] if any("tests/images" in word for word in sys.argv) else ["test_*.py"]
