"""Which device is chosen if there is a GPU, none, or an unusable one."""

from pathlib import Path

import pytest
import torch

from services.vision import device
from services.vision.device import Device, DeviceUnusable, choose


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a GPU and its driver, as torch reports it."""
    (tmp_path / "version").write_text("580.65.06\n")
    ones = torch.ones
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch, "ones", lambda size, device: ones(size))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every computation on the GPU fails."""

    def fail(size: int, device: str) -> torch.Tensor:
        raise error

    monkeypatch.setattr(torch, "ones", fail)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_used_unless_the_settings_say_otherwise() -> None:
    assert choose("auto") == choose("cuda") == Device("cuda", "NVIDIA L4")
    assert choose("cpu") == Device("cpu", "cpu")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: no kernel image is available for execution on the device\nSearch for it."),
        RuntimeError("The NVIDIA driver on your system is too old (found version 12020)."),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
)
def test_an_unusable_gpu_is_an_error_if_required_and_reported_otherwise(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broken(monkeypatch, error)
    with pytest.raises(DeviceUnusable) as raised:
        choose("cuda")
    for word in ("SIGHTLINE_DEVICE", torch.__version__, "driver is 580.65.06", str(error).splitlines()[0].rstrip(".")):
        assert word in str(raised.value)
    chosen = choose("auto")
    assert chosen.kind == "cpu"
    assert chosen.problem in str(raised.value)


def test_without_a_gpu_the_cpu_is_used_and_nothing_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "missing")
    broken(monkeypatch, RuntimeError("Found no NVIDIA driver on your system."))
    assert choose("auto") == Device("cpu", "cpu")
    with pytest.raises(DeviceUnusable, match="no NVIDIA driver is loaded"):
        choose("cuda")
