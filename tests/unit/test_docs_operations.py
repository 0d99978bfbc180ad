"""docs/operations.md: what `sightline up` keeps in its folder, and which settings it sets itself or leaves out."""

import os
import re
from pathlib import Path

import pytest

from sightline.local import signing
from sightline.local.claims import FOLDERS
from sightline.local.nats_users import ADMIN, USERS
from sightline.local.programs import Layout, service_programs
from tests.support.layouts import layout_of

TEXT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
SETS, LEAVES_OUT = re.findall(r"^- It (?:sets|leaves out) .*?(?=\n-|\n\n)", TEXT, re.MULTILINE | re.DOTALL)
PLACES = re.compile(r"SIGHTLINE_(HOST|\w*PORT|\w*ADDRESS)")  # "addresses and ports"


def covered(variable: str, text: str) -> bool:
    """Whether the text names the variable, or the beginning that it shares with others."""
    return any(
        variable.startswith(name) if more else variable == name
        for name, more in re.findall(r"`(SIGHTLINE_\w+?)(…?)`", text)
    )


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    for name in [name for name in os.environ if name.startswith("SIGHTLINE_")]:
        monkeypatch.delenv(name)
    signing.keep(tmp_path, used_before=False)
    return layout_of(tmp_path, dict.fromkeys((*USERS, ADMIN), "p1"))


def test_every_folder_of_a_suite_is_named() -> None:
    _, _, rest = TEXT.partition("With `sightline up --data DIR`, the folder holds everything: ")
    assert set(re.findall(r"`DIR/(\w+)`", rest.partition("\n\n")[0])) == FOLDERS


def test_every_setting_that_a_suite_sets_or_leaves_out_is_named(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_shell = {"SIGHTLINE_BUCKET", "SIGHTLINE_TLS_CA", "SIGHTLINE_AUTH_KEYS", "SIGHTLINE_TOKEN_FILE"}
    of_the_shell |= set(re.findall(r"`(SIGHTLINE_\w+)`", SETS + LEAVES_OUT)) - set(signing.OWN)
    for name in of_the_shell:
        monkeypatch.setenv(name, "of the shell")
    environments = [program.environment for program in service_programs(layout, lambda _: None)]
    for one in environments:
        assert one["SIGHTLINE_BUCKET"] == "of the shell"
        assert not [name for name in one if covered(name, LEAVES_OUT)]
    changed = {name for one in environments for name, value in one.items() if value != "of the shell"}
    changed = {name for name in changed if name.startswith("SIGHTLINE_") and not PLACES.fullmatch(name)}
    assert not [name for name in changed if not covered(name, SETS)]
    assert set(re.findall(r"`(SIGHTLINE_\w+)`", SETS)) <= changed
