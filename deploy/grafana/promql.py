"""PromQL expressions of the dashboard, each by namespace, so that suites stay separate."""

from __future__ import annotations

WINDOW = "$__rate_interval"
CHOSEN = 'namespace=~"$namespace"'


def chosen(metric: str, where: str = "") -> str:
    """The series of a metric in the namespaces that the viewer selected; without namespaces, all of them."""
    return f"{metric}{{{', '.join(filter(None, (CHOSEN, where)))}}}"


def grouped(by: str = "") -> str:
    """The labels of a line, with the namespace, so that suites stay separate."""
    return ", ".join(filter(None, ("namespace", by)))


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """The quantile of a histogram over all processes of a suite, for each value of the labels in `by`."""
    buckets = chosen(f"{histogram}_bucket", where)
    return f"histogram_quantile({share}, sum by ({grouped(by)}, le) (rate({buckets}[{WINDOW}])))"


def mean(histogram: str, by: str = "") -> str:
    """The mean of a histogram's observations, by these labels."""
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


def total(gauge: str, by: str = "", where: str = "") -> str:
    """The sum of a gauge by these labels."""
    return f"sum by ({grouped(by)}) ({chosen(gauge, where)})"


def rate(counter: str, by: str = "", where: str = "") -> str:
    """Events a second, by these labels."""
    return f"sum by ({grouped(by)}) (rate({chosen(counter, where)}[{WINDOW}]))"


def within(counter: str, window: str, by: str = "", where: str = "") -> str:
    """Events within the window, by these labels."""
    return f"sum by ({grouped(by)}) (increase({chosen(counter, where)}[{window}]))"


def suite(gauge: str, by: str = "", where: str = "") -> str:
    """A gauge that every replica of an api reports with the same value."""
    return f"max by ({grouped(by)}) ({chosen(gauge, where)})"
