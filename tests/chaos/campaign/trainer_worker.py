"""The trainer worker as it is, but with children that train nothing; its arguments are those of the worker."""

import sys

from services.trainer import __main__ as process

if __name__ == "__main__":
    process.COMMAND = (sys.executable, "-m", "tests.chaos.campaign.engine")
    process.main()
