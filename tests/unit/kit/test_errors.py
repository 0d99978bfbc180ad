"""Every error of the tree, as the code creates it: its template gets all of its variables, and none is empty."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from services.kit import errors
from services.kit.errors import DatasetEmpty, InvalidName, InvalidRequest, SightlineError
from tests.support.error_messages import collect_gaps, gaps

ROOT = Path(errors.__file__).parents[2]


@pytest.fixture(autouse=True)
def _error_messages_have_no_gaps() -> None:
    """Replaces the fixture that all other tests use: these tests create errors with gaps on purpose."""


def _tree(kind: type[SightlineError] = SightlineError) -> Iterator[type[SightlineError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _tree(below)


def _variables(kind: type[SightlineError]) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(kind.template) if name}


def _calls() -> Iterator[tuple[str, type[SightlineError], ast.Call]]:
    """Where services create errors: the place, the error's class, and the call."""
    kinds = {kind.__name__: kind for kind in _tree() if kind.__module__ == errors.__name__}
    for path in sorted((ROOT / "services").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", kinds[node.func.id], node


def test_every_error_is_created_with_all_variables_of_its_message() -> None:
    faults: list[str] = []
    made = 0
    for place, kind, call in _calls():
        given = {keyword.arg for keyword in call.keywords}
        if None in given:  # **variables: only known at run time
            continue
        made += 1
        if missing := _variables(kind) - {name for name in given if name}:
            faults.append(f"{place}: {kind.__name__} without {', '.join(sorted(missing))}")
    assert made > 100
    assert faults == []


def test_every_error_of_the_tree_can_be_read() -> None:
    for module in ("services.infra.channel", "services.trainer.app", "services.dataset.app", "services.predictor.app"):
        importlib.import_module(module)
    kinds = [kind for kind in _tree() if _variables(kind)]
    assert len(kinds) > 30
    for kind in kinds:
        message = kind(**{name: f"<{name}>" for name in _variables(kind)}).message
        assert all(f"<{name}>" in message for name in _variables(kind)), kind.__name__
        assert "{" not in message, kind.__name__


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequest(field="model", problem="is missing"), []),
        (InvalidRequest(field=" ", problem="is missing"), ["field"]),
        (InvalidName(field="name", value="", expected="a name"), []),
        (DatasetEmpty(dataset="datasets/d", detail=""), []),
        (DatasetEmpty(dataset="", detail=""), ["dataset"]),
    ],
    ids=str,
)
def test_an_empty_variable_is_a_gap_unless_it_is_quoted_or_ends_a_word(
    error: SightlineError, expected: list[str]
) -> None:
    assert gaps(error) == expected


def test_an_error_with_a_gap_is_noticed_wherever_it_is_created() -> None:
    with collect_gaps() as faults:
        InvalidRequest(field="", problem="is missing")
        InvalidRequest(field="model", problem="is missing")
    assert faults == ["InvalidRequest without field: : is missing"]
