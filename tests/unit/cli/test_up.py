"""What `sightline up` prints once everything runs."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from sightline.cli.up import print_stack
from sightline.local.stack import Stack


def test_the_addresses_of_the_services_and_of_the_studio_are_printed(tmp_path: Path) -> None:
    stack, printed = Stack(tmp_path), StringIO()
    stack.gateway = "http://127.0.0.1:50054"
    print_stack(stack, Console(file=printed, width=200))
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert ["studio", "http://127.0.0.1:50054/studio"] in lines
    assert any(line[:2] == ["gateway", stack.gateway] for line in lines)
