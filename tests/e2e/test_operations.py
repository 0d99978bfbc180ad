"""The commands of docs/operations.md that lead from nothing to a served model, on free ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.demo.digits import DigitSet
from sightline.local.nats import find
from sightline.local.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PROCESS = re.compile(r"SIGHTLINE_METRICS_PORT=(\d+) (python -m services\.\w+)")
SERVICES = {"services.dataset": "DATASET", "services.trainer": "TRAINER", "services.predictor": "PREDICTOR"}
GATEWAY = "services.gateway"
WAIT_FOR_PROMETHEUS = """
for i in $(seq 60); do
  up=$(curl --silent "http://127.0.0.1:9090/api/v1/query?query=sum(up)" | grep -o '"7"' || true)
  [ -z "$up" ] || break
  sleep 0.5
done
echo "Prometheus sees $up"
"""


def commands() -> str:
    found = re.search(
        r"^### From nothing to a served model, process by process\n.*?^```sh\n(.*?)^```",
        (ROOT / "docs/operations.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert found
    return found[1]


def on_free_ports(text: str, ports: dict[str, int]) -> str:
    """The text with its ports replaced by free ones."""
    return re.sub(r"\b(4222|9090|910[0-6])\b", lambda port: str(ports[port[1]]), text)


def test_an_administrator_gets_from_nothing_to_a_served_model(
    images: tuple[DigitSet, DigitSet], tmp_path: Path
) -> None:
    (tmp_path / "photos").symlink_to(images[0].coco.parent)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    fixed = ["4222", "9090", *(str(9100 + number) for number in range(7)), *SERVICES, GATEWAY]
    ports = dict(zip(fixed, free_ports(len(fixed)), strict=True))
    config = tmp_path / "deploy/prometheus/prometheus.yaml"
    config.parent.mkdir(parents=True)
    (config.parent / "rules.yaml").symlink_to(ROOT / "deploy/prometheus/rules.yaml")
    written = (ROOT / "deploy/prometheus/prometheus.yaml").read_text()
    config.write_text(on_free_ports(written.replace("scrape_interval: 15s", "scrape_interval: 1s"), ports))
    environment = {
        **os.environ,
        "PATH": f"{os.environ['PATH']}:{Path(find()).parent}",
        "SIGHTLINE_NATS_URL": f"nats://127.0.0.1:{ports['4222']}",
        "SIGHTLINE_DOWNLOAD_WEIGHTS": "false",
        "SIGHTLINE_INSTALLED_WEIGHTS": "false",
        **{f"SIGHTLINE_{name}_ADDRESS": f"127.0.0.1:{ports[module]}" for module, name in SERVICES.items()},
    }

    script = commands().replace("--budget 10m", "--budget 60s")
    waits = "until sightline doctor --only services > suite/doctor.log; do sleep 1; done\nsightline doctor  "
    script = script.replace("sightline doctor  ", waits, 1)
    script = script.replace("prometheus.yaml ", "prometheus.yaml --web.listen-address=127.0.0.1:9090 ", 1)
    script = script.replace("\nkill ", f"{WAIT_FOR_PROMETHEUS}kill ", 1) + "\nwait\n"
    script = PROCESS.sub(lambda found: f"SIGHTLINE_PORT={ports[found[2].split()[2]]} {found[0]}", script)
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            ["bash", "-euc", on_free_ports(script, ports)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = process.wait(500)
            printed = (tmp_path / "output").read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, printed
    assert "photos/test/0001.png" in printed
    assert 'Prometheus sees "7"' in printed
    assert printed.count(" 0 faults") >= 2
