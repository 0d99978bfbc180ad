"""Finds variables that no process reads: a misspelt one is ignored, and its default applies."""

import os
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from services.infra.findings import Report

PREFIX = "SIGHTLINE_"
OF_CALLERS = ("CA", "CLIENT_CERTIFICATE", "CLIENT_KEY", "PROJECT", "GATEWAY_URL")
FIELD = re.compile(r"^    (\w+): ", re.MULTILINE)  # of a settings class


async def check_variables(report: Report) -> None:
    """Warns of each variable of ours in the environment that nothing reads, with the name that may be meant."""
    known = known_variables()
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.removesuffix("_FILE") not in known and name not in known:
            meant = get_close_matches(name, known, 1, 0.85)
            hint = f"did you mean {meant[0]}?" if meant else "see docs/settings.md;"
            report.warn(f"{name} is set, and no process reads it", f"{hint} otherwise unset it")


@cache
def known_variables() -> frozenset[str]:
    """Those of every service and of callers. They are read from the sources: infra may import no service."""
    sources = Path(__file__).parents[1].glob("*/settings.py")
    fields = {name.upper() for source in sources for name in FIELD.findall(source.read_text())}
    return frozenset(f"{PREFIX}{name}" for name in (*fields, *OF_CALLERS))
