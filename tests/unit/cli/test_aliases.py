"""`sightline aliases`."""

from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes


def test_an_alias_is_set_shown_rolled_back_and_deleted(sightline: Command, fakes: Fakes) -> None:
    assert sightline("aliases", "set", "birds@live", "birds-1").out == "birds@live stands for birds-1\n"
    assert sightline("aliases", "set", "birds@live", "models/birds-2", "--json").json["model"] == "models/birds-2"
    shown = sightline("aliases", "show", "birds@live").out.splitlines()
    assert [line.split()[3:] for line in shown if "ann" in line] == [["birds-2", "ann"], ["birds-1", "ann"]]
    assert sightline("aliases", "rollback", "birds@live").out == "birds@live stands for birds-1\n"
    listed = next(line for line in sightline("aliases", "list").out.splitlines() if "@" in line)
    assert listed.split()[:2] == ["birds@live", "birds-1"]
    assert sightline("aliases", "delete", "birds@live").out == "deleted models/birds@live\n"
    assert fakes.aliases == {}
