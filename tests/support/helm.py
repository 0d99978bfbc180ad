"""Helm, in a process of its own: it is Go, whose runtime would stay in the tests' process and handle its signals."""

import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Values = dict[str, Any]


class ChartRefused(Exception):
    """Helm does not render the chart with these values."""


def render(chart: Path, values: Values, *, namespace: str, revision: int = 1) -> dict[str, str]:
    """What each template of the chart gives, by the template's path. ChartRefused."""
    return _process().submit(_render, chart, values, namespace, revision).result()


def lint(chart: Path, version: str) -> Values:
    """Helm's report on the chart for a version of Kubernetes: `messages`, and `errors`, which warnings are too."""
    return _process().submit(_lint, chart, version).result()


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _render(chart: Path, values: Values, namespace: str, revision: int) -> dict[str, str]:
    import helm_python  # only in this process

    try:
        with helm_python.Chart.load(chart) as loaded:
            return loaded.render(values, name="suite", namespace=namespace, revision=revision)
    except helm_python.HelmError as fault:
        raise ChartRefused(str(fault)) from None


def _lint(chart: Path, version: str) -> Values:
    import helm_python  # only in this process

    return helm_python.lint(chart, strict=True, kube_version=version)
