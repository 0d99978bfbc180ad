"""A real Prometheus for tests: scrapes its targets every second and evaluates the alerts."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from services.infra import audit_sinks, server_metrics
from tests.support.servers import find_program, free_port, stop, wait_until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "sightline.json"
WINDOW = "2m"
RPCS = (
    server_metrics.STARTED,
    server_metrics.HANDLED,
    server_metrics.SECONDS,
    server_metrics.RECEIVED,
    server_metrics.SENT,
)
SERVERS = (  # what every gRPC server measures
    *RPCS,
    server_metrics.REFUSED,
    server_metrics.BYTES,
    server_metrics.IN_FLIGHT,
    audit_sinks.LOST,
    audit_sinks.WAITING,
)


class PrometheusRefused(AssertionError):
    """Prometheus refused a query; the message is Prometheus's."""


def with_thresholds(rules: str, thresholds: Mapping[str, str]) -> dict[str, Any]:
    """The rules for a test that cannot wait: no `for`, short windows, and other thresholds.

    `thresholds` has `OLD -> NEW`, or several with commas, by the alert's name; fails if an alert has no such number.
    """
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\[\d+[mhd]\]", f"[{WINDOW}]", rules))
    left = dict(thresholds)
    for group in loaded["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule.pop("for", None)
            for change in filter(None, left.pop(rule.get("alert", ""), "").split(", ")):
                old, _, new = change.partition(" -> ")
                assert old in rule["expr"], f"{rule['alert']}: {old} is not in {rule['expr']}"
                rule["expr"] = rule["expr"].replace(old, new)
    assert not left, f"there is no alert {sorted(left)}"
    return loaded


def queries(rules: Mapping[str, Any]) -> list[str]:
    """Every expression of the rules and of the dashboard."""
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        found += [filled(target["expr"]) for target in panel.get("targets", ())]
    return found


def filled(expression: str) -> str:
    """A panel's expression as Grafana sends it for all namespaces and pods."""
    return (
        expression.replace("$__rate_interval", WINDOW)
        .replace("$namespace", ".*")
        .replace("$pod", ".*")
        .replace("$price", "1")
    )


class Prometheus:
    """Scrapes `targets` (ports by job) every second and evaluates the rules as often, within the block."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[int]], rules: Mapping[str, Any]) -> None:
        self._folder = folder
        self._targets = targets
        self._rules = rules
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = find_program("prometheus", "prometheus")
        self._folder.mkdir(parents=True)
        (self._folder / "rules.yaml").write_text(yaml.safe_dump(dict(self._rules)))
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for job, ports in self._targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": jobs,
        }
        settings, log = self._folder / "prometheus.yaml", self._folder / "prometheus.log"
        settings.write_text(yaml.safe_dump(config))
        command = [program, f"--config.file={settings}", f"--storage.tsdb.path={self._folder / 'data'}"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{self._port}"], stdout=output, stderr=output
            )
        wait_until(self._is_ready, self._process, log)
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The expression's current value: a list of `metric` and `value`. PrometheusRefused."""
        data = self._get("query", query=expression)
        return list(data["result"]) if data["resultType"] == "vector" else [{"metric": {}, "value": data["result"]}]

    def names(self, job: str) -> set[str]:
        """The names of all series scraped from a job."""
        return set(self._get("label/__name__/values", **{"match[]": f'{{job="{job}"}}'}))

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with the state of its last evaluation."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The names of the firing alerts."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def wait_for(self, *alerts: str, seconds: float = 40.0) -> None:
        """Returns once each alert has fired, not necessarily at the same time; AssertionError after `seconds`."""
        missing, deadline = set(alerts), time.monotonic() + seconds
        while missing := missing - self.firing():
            assert time.monotonic() < deadline, f"{sorted(missing)} did not fire, but {sorted(self.firing())}"
            time.sleep(0.3)

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise PrometheusRefused(f"{parameters}: {error.read().decode()}") from None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
