"""PromQL expressions of the dashboard, each by namespace, so that suites stay separate."""

from __future__ import annotations

WINDOW = "$__rate_interval"
CHOSEN = 'namespace=~"$namespace"'
PODS = 'pod=~"$pod"'
OURS = f"group by (namespace) (sightline_build_info{{{CHOSEN}}})"


def chosen(metric: str, where: str = "") -> str:
    """The series of a metric in the namespaces and pods that the viewer selected; outside Kubernetes, all of them.

    What rules have recorded belongs to no pod.
    """
    filters = (CHOSEN, where) if ":" in metric else (CHOSEN, PODS, where)
    return f"{metric}{{{', '.join(filter(None, filters))}}}"


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


# What others measure. Where an exporter says of which namespace and pod it speaks, Prometheus keeps its own labels of
# these names for the exporter itself, unless told to honor the exporter's, and calls those `exported_…`.


def spoken_of(vector: str, *labels: str) -> str:
    """The vector with the labels that its exporter gave, whether Prometheus renamed them or not."""
    for label in labels or ("namespace",):
        vector = f'label_replace({vector}, "{label}", "$1", "exported_{label}", "(.+)")'
    return vector


def where_we_are(vector: str) -> str:
    """The part of a vector by namespace that is about the suites that the viewer selected."""
    return f"{vector} * on (namespace) group_left () {OURS}"


def of_our_pods(metric: str, by: str = "") -> str:
    """A gauge of an exporter that speaks of pods, of those that run a process of ours, with that process as `job`."""
    pods = f"group by (namespace, pod, job) ({chosen('sightline_build_info')})"
    values = f"max by ({grouped('pod')}{', ' if by else ''}{by}) ({spoken_of(metric, 'namespace', 'pod')})"
    return f"{values} * on (namespace, pod) group_left (job) {pods}"


def quantile_in_our_queue(share: float, histogram: str) -> str:
    """The quantile of a histogram of Kueue's, likewise."""
    return f"histogram_quantile({share}, sum by (namespace, le) ({_in_our_queue(f'{histogram}_bucket', WINDOW)}))"


def of_our_queue(metric: str, by: str = "") -> str:
    """A gauge of Kueue's, by the ClusterQueue that the component `kueue` makes for a namespace."""
    return f"sum by ({grouped(by)}) ({_in_our_queue(metric)})"


def _in_our_queue(metric: str, window: str = "") -> str:
    queues = f'{metric}{{cluster_queue=~"sightline[.]($namespace)"}}'
    values = f"rate({queues}[{window}])" if window else queues
    return f'label_replace({values}, "namespace", "$1", "cluster_queue", "sightline[.](.*)")'
