"""Makes the dashboard from its panels.

`python -m deploy.grafana.dashboard` writes sightline.json next to this file; with --check it only compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import quote

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphTresholdsStyleMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

from deploy.grafana.panel import Panel
from deploy.grafana.panels import ROWS

FILE = Path(__file__).with_name("sightline.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
# A version that was not there five minutes ago.
_RUNNING = 'group by (namespace, service, version) (sightline_build_info{namespace=~"$namespace"}'
DEPLOYS = f"{_RUNNING}) unless {_RUNNING} offset 5m)"
LOGS = {
    "logs": {
        "datasource": "${logs}",
        "queries": [{"refId": "A", "expr": '{namespace=~"${namespace:regex}", pod=~"${pod:regex}"} | json'}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
}


def render() -> str:
    """The dashboard's JSON."""
    board = (
        dashboard.Dashboard("Sightline")
        .uid("sightline")
        .tags(["sightline"])
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("namespace")
            .label("Namespace")
            .datasource(SOURCE)
            .query("label_values(sightline_build_info, namespace)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")  # includes series without a namespace: a suite outside Kubernetes
        )
        .with_variable(
            dashboard.QueryVariable("pod")
            .label("Pod")
            .datasource(SOURCE)
            .query('label_values(sightline_build_info{namespace=~"$namespace"}, pod)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
        .with_variable(dashboard.DatasourceVariable("logs").label("Logs").type("loki"))
        .with_variable(dashboard.TextBoxVariable("price").label("Price of an hour").default_value("1"))
        .annotation(
            dashboard.AnnotationQuery().name("Deploys").datasource(SOURCE).enable(True).icon_color("blue").expr(DEPLOYS)
        )
        .link(
            dashboard.DashboardLink("Logs")
            .type(DashboardLinkType.LINK)
            .url(f"/explore?schemaVersion=1&panes={quote(json.dumps(LOGS), safe='${}:')}")
            .tooltip("The log lines of these pods, at this time")
            .target_blank(True)
        )
    )
    for title, panels in ROWS.items():
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(_panel(panel))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(board.build())), indent=2, sort_keys=True) + "\n"


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    shown: stat.Panel | timeseries.Panel
    if panel.number:
        shown = stat.Panel()
    else:
        legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
        shown = timeseries.Panel().legend(legend.placement(LegendPlacement.BOTTOM))
        if not panel.can_be_negative:
            shown = shown.min(0)
        if panel.limits:
            shown = shown.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    shown = shown.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    shown = shown.span(panel.width).height(HEIGHT)
    if panel.limits:
        steps = [Threshold(None, panel.lowest), *(Threshold(limit.value, limit.color) for limit in panel.limits)]
        shown = shown.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = (
            prometheus.Dataquery().expr(query.expr).legend_format(f"{query.legend} {{{{namespace}}}}").ref_id(letter)
        )
        if query.exemplars:
            target = target.exemplar(True)
        shown = shown.with_target(target.datasource(SOURCE))
    return shown


def main() -> int:
    """Writes the file, or compares it; returns 1 if it is out of date."""
    text = render()
    if "--check" in sys.argv[1:]:
        fresh = FILE.exists() and FILE.read_text() == text
        if not fresh:
            sys.stdout.write(f"{FILE.name} is out of date: run python -m deploy.grafana.dashboard\n")
        return 0 if fresh else 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
