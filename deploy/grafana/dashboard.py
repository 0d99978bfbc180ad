"""Makes the dashboard from its panels.

`python -m deploy.grafana.dashboard` writes sightline.json next to this file; with --check it only compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

from deploy.grafana.panels import ROWS, Panel

FILE = Path(__file__).with_name("sightline.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8


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
        shown = timeseries.Panel().min(0).legend(legend.placement(LegendPlacement.BOTTOM))
    shown = shown.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    shown = shown.span(panel.width).height(HEIGHT)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = (
            prometheus.Dataquery().expr(query.expr).legend_format(f"{query.legend} {{{{namespace}}}}").ref_id(letter)
        )
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
