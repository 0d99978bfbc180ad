"""The script for GPUs, tried on a CPU: it has to be ready when there is one."""

import subprocess
import sys

import pytest

from bench import bench_gpu
from bench.bench_autogluon import table


@pytest.mark.timeout(600)
def test_the_script_measures_halves_and_ends_with_the_tests(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "mobilenet_v3_small", "--device", "cpu", "--tiny"])
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "call", lambda command: called.append(command) or 0)
    assert bench_gpu.main() == 0
    printed = capsys.readouterr().out
    assert "mobilenet_v3_small: features: " in printed
    assert "fine-tuning, float32-channels-last: " in printed
    assert "micro-batches of 2 of 4" in printed
    assert called[0][-1].endswith("test_gpu.py")


def test_an_unknown_network_is_refused_by_name():
    with pytest.raises(SystemExit, match="resnet_1 is not a backbone"):
        bench_gpu.chosen(["resnet_1"])


def test_autogluon_gets_the_images_that_have_a_label(tmp_path):
    coco = tmp_path / "train.json"
    coco.write_text(
        '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],'
        ' "annotations": [{"image_id": 2, "category_id": 7}], "categories": [{"id": 7, "name": "cat"}]}'
    )
    assert table(coco) == {"image": [str(tmp_path / "b.png")], "label": ["cat"]}
