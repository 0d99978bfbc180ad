"""What a code of findings means."""

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """ERROR: wrong, and left out of the snapshot unless the finding says otherwise. WARNING: kept or repaired, but may
    harm training. INFO: good to know.
    """

    ERROR = "ERROR"
    WARNING = "WARNING"
    INFO = "INFO"


class Rule(NamedTuple):
    """The meaning of a code. A fatal finding makes the whole annotation file unusable."""

    severity: Severity
    message: str  # a template for `plurals.fill` over the variables given to `FindingLog.add`
    remedy: str
    fatal: bool = False
