"""What the processes of the dataset service load."""

import subprocess
import sys


def test_no_process_of_the_dataset_service_loads_torch() -> None:
    code = "import sys, services.dataset.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_printed_and_an_unknown_role_prints_the_usage() -> None:
    command = [sys.executable, "-m", "services.dataset"]
    shown = subprocess.run([*command, "api", "--settings"], check=True, capture_output=True, text=True)
    assert '"chunk_images": 1000' in shown.stdout
    wrong = subprocess.run([*command, "nonsense"], check=False, capture_output=True, text=True)
    assert "usage: python -m services.dataset api|worker" in wrong.stderr
