"""The committed dashboard is up to date with its code, and queries metrics that exist."""

import json
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import yaml

from deploy.grafana import dashboard
from deploy.grafana.panels import ROWS
from tests.support.prometheus import RULES, queries
from tests.unit.test_docs_metrics import ALL

OURS = r"(?:\b(?:sightline|grpc_server|process)_[a-z0-9_]+|\bsightline:[\w:]+|\bup\b)"
FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"


def test_the_committed_dashboard_is_what_its_code_generates() -> None:
    assert dashboard.render() == (FOLDER / "sightline.json").read_text(), "run python -m deploy.grafana.dashboard"


def test_the_dashboard_queries_metrics_that_exist() -> None:
    text = (FOLDER / "sightline.json").read_text()
    named = set(re.findall(r"\b(?:sightline|grpc_server)_[a-z0-9_]+\b", text))
    known = {metric.name: metric for metric in ALL}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named if name not in known} <= set(known)


def test_every_panel_has_a_description() -> None:
    panels = json.loads((FOLDER / "sightline.json").read_text())["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == [
        "What runs",
        "What callers may expect",
        "What waits",
        "Why it waits",
        "GPUs",
        "NATS",
        "Batch predictions and exports",
        "What it costs",
        "What fails",
        "How fast it responds",
    ]
    graphs = [panel for panel in panels if panel["type"] != "row"]
    assert all(panel["description"].endswith(".") for panel in graphs)
    assert len({panel["title"] for panel in graphs}) == len(graphs)


def test_no_panel_and_no_rule_mixes_the_suites_of_two_namespaces() -> None:
    for expression in queries(yaml.safe_load(RULES.read_text())):
        if "kube_node_status_allocatable" in expression:
            continue  # nodes belong to no namespace
        for aggregation in re.finditer(
            r"\b(?:sum|max|min|avg|group|count|quantile)\b(?! by \(namespace\b)", expression
        ):
            raise AssertionError(f"{expression[aggregation.start() :]} is not by namespace")
        shared = expression.replace(" on (class, objective) group_left () (1 - sightline:objective)", "")
        shared = shared.replace(" on (class, le) group_left () sightline:objective_seconds", "")  # of all suites
        assert " on (" not in shared.replace(" on (namespace", ""), expression
    panels = json.loads((FOLDER / "sightline.json").read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", ())]
    assert targets
    for target in targets:
        asked = target["expr"]
        metrics = re.findall(OURS, asked)
        assert len(re.findall(OURS + r'\{namespace=~"\$namespace"', asked)) == len(metrics), asked
        assert metrics or "$namespace" in asked or "kube_node_status_allocatable" in asked, asked
        assert "{{namespace}}" in target["legendFormat"]


def test_the_viewer_chooses_pods_sees_deploys_and_finds_the_logs() -> None:
    board = json.loads((FOLDER / "sightline.json").read_text())
    variables = [one["name"] for one in board["templating"]["list"]]
    assert variables == ["datasource", "namespace", "pod", "logs", "price"]
    (deploys,) = board["annotations"]["list"]
    assert "sightline_build_info" in deploys["expr"]
    (link,) = board["links"]
    panes = json.loads(unquote(link["url"].partition("&panes=")[2]))
    assert panes["logs"]["datasource"] == "${logs}"
    assert panes["logs"]["queries"][0]["expr"] == '{namespace=~"${namespace:regex}", pod=~"${pod:regex}"} | json'
    assert any(target.get("exemplar") for panel in board["panels"] for target in panel.get("targets", ()))


def test_limits_rise_and_have_other_colors_than_their_neighbours() -> None:
    panels = [panel for row in ROWS.values() for panel in row if panel.limits]
    assert len(panels) >= 10
    for panel in panels:
        values, colors = [limit.value for limit in panel.limits], [panel.lowest, *(one.color for one in panel.limits)]
        assert values == sorted(set(values)), panel.title
        assert all(one != other for one, other in pairwise(colors)), panel.title
