"""docs/settings.md lists every setting of every service with its default, and says whose defaults differ."""

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.dataset.settings import DatasetSettings
from services.gateway.settings import GatewaySettings
from services.kit.settings import Settings
from services.operator.settings import OperatorSettings
from services.predictor.settings import PredictorSettings
from services.trainer.settings import TrainerSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
ROW = re.compile(r"^\| `(SIGHTLINE_\w+)` \| (.*?) \|", re.MULTILINE)
# Defaults that differ between machines.
OF_THE_MACHINE = {
    "forward_passes": "number of CPUs",
    "ingest_threads": "number of CPUs",
    "threads": "number of CPUs",
}

CHAPTERS: dict[str, type[Settings]] = {
    "Every service": Settings,
    "Dataset service": DatasetSettings,
    "Trainer": TrainerSettings,
    "Predictor": PredictorSettings,
    "Gateway": GatewaySettings,
    "Operator": OperatorSettings,
}


def chapter(title: str) -> str:
    """The text between a heading and the next one."""
    _, _, rest = DOCUMENT.read_text().partition(f"\n## {title}\n")
    return re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]


def own_fields(settings: type[Settings]) -> Iterator[tuple[str, str]]:
    """The settings that a service adds or changes, and their defaults as the document writes them."""
    for name, field in settings.model_fields.items():
        common = Settings.model_fields.get(name)
        if settings is Settings or common is None or common.default != field.default:
            yield f"SIGHTLINE_{name.upper()}", OF_THE_MACHINE.get(name) or written(field.default)


def written(default: object) -> str:
    """A default as the document writes it."""
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    return f"`{value}`" if value != "" else "empty"


@pytest.mark.parametrize("title", CHAPTERS)
def test_every_setting_is_documented_with_its_default_and_no_other_is(title: str) -> None:
    assert dict(ROW.findall(chapter(title))) == dict(own_fields(CHAPTERS[title]))


def test_the_settings_whose_defaults_differ_between_services_are_named() -> None:
    defaults: dict[str, set[str]] = {}
    for kind in set(CHAPTERS.values()) - {Settings}:
        for name, field in kind.model_fields.items():
            defaults.setdefault(name, set()).add(written(field.default))
    differing = {f"SIGHTLINE_{name.upper()}" for name, values in defaults.items() if len(values) > 1}
    found = re.search(r"set these per process: ([^.]+)\.", DOCUMENT.read_text())
    assert found
    assert set(re.findall(r"`(\w+)`", found[1])) == differing


def test_every_settings_class_has_a_chapter() -> None:
    modules = {path.parent.name for path in (DOCUMENT.parents[1] / "services").glob("*/settings.py")}
    assert {kind.__module__.split(".")[1] for kind in CHAPTERS.values()} == modules
