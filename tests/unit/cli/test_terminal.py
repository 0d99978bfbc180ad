"""The command on limited terminals and in faulty environments: it copes, or says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image

from sightline.cli.installed import OF_THE_STORE
from sightline.client.requests import MAX_IMAGE_BYTES
from sightline.client.transport.addresses import VARIABLES
from sightline.client.transport.channel import MAX_MESSAGE_BYTES
from sightline.v1.dataset_pb2 import Dataset
from sightline.v1.finding_pb2 import Finding
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, serving, status

PLANE = "飞机"
ENCODINGS = [
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.fixture
def address(fakes: Fakes) -> Iterator[str]:
    fakes.datasets["datasets/d"] = Dataset(name="datasets/d", display_name=PLANE, state=Dataset.READY)
    fakes.findings = [Finding(severity=Finding.ERROR, code="x", file=f"{PLANE}.png", message=PLANE, remedy=PLANE)]
    fakes.objects = [(PLANE, 0.9, (0, 1, 32, 24))]
    with serving(fakes) as where:
        yield where


def run(address: str, environment: dict[str, str], *words: object) -> tuple[int, bytes, bytes]:
    """Runs the command in a separate process whose standard output and error have the encoding."""
    addresses = dict.fromkeys(VARIABLES.values(), address)
    done = subprocess.run(
        [sys.executable, "-m", "sightline", *map(str, words)],
        env={**os.environ, **addresses, **environment}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("environment", ENCODINGS)
def test_names_that_the_terminal_cannot_show_are_printed_with_replacements(address, environment):
    code, out, err = run(address, environment, "datasets", "findings", "d")
    assert (code, err) == (0, b"")
    assert b"??.png" in out


@pytest.mark.parametrize("environment", ENCODINGS)
def test_json_stays_json_and_keeps_the_names(address, environment):
    code, out, _ = run(address, environment, "datasets", "show", "d", "--json")
    assert code == 0
    assert json.loads(out.decode("ascii"))["displayName"] == PLANE


def test_json_is_legible_if_the_terminal_supports_the_characters(address):
    _, out, _ = run(address, {"PYTHONIOENCODING": "utf-8"}, "datasets", "show", "d", "--json")
    assert PLANE in out.decode()


def test_predictions_and_errors_with_such_names_are_printed_too(address, fakes: Fakes, tmp_path: Path):
    image_file = tmp_path / f"{PLANE}.png"
    Image.new("RGB", (64, 48), "blue").save(image_file)
    latin = {"PYTHONIOENCODING": "cp1252"}
    code, out, _ = run(address, latin, "predict", "m", image_file)
    assert code == 0
    assert b"??.png" in out
    code, out, _ = run(address, latin, "predict", "m", image_file, image_file, "--json")
    assert code == 0
    assert [answer["id"] for answer in json.loads(out)] == [str(image_file)] * 2
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.NOT_FOUND, "ModelNotFound", f"models/{PLANE} is missing.")]
    code, _, err = run(address, latin, "predict", PLANE, image_file)
    assert code == 5
    assert b"models/?? is missing." in err


def test_all_malformed_addresses_are_reported_at_once_as_wrong_usage(
    sightline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_DATASET_ADDRESS", "http://localhost:50051")
    monkeypatch.setenv("SIGHTLINE_TRAINER_ADDRESS", "localhost")
    outcome = sightline("datasets", "list")
    assert outcome.code == 2
    assert "SIGHTLINE_DATASET_ADDRESS: 'http://localhost:50051' begins with http://" in outcome.err
    assert "SIGHTLINE_TRAINER_ADDRESS: 'localhost' has no port; expected host:port" in outcome.err


def test_a_file_too_large_for_a_call_is_reported_with_size_limit_and_fix_and_the_others_are_predicted(
    sightline: Command, fakes: Fakes, tmp_path: Path
) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    small.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    outcome = sightline("predict", "m", tmp_path, "--json")
    assert outcome.code == 3
    assert f"{large} is 23.9 MiB; images can be at most 23.9 MiB" in outcome.err
    assert "fix: scale the image down" in outcome.err
    assert [(answer["id"], "error" in answer) for answer in json.loads(outcome.out)] == [
        (str(large), True),
        (str(small), False),
    ]
    assert len(fakes.requests) == 1
    largest = AnalyzeImageRequest(model_name="models/" + "m" * 255, image=bytes(MAX_IMAGE_BYTES))
    assert largest.ByteSize() <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "words",
    [
        ("batch", "download", "b", "link"),
        ("datasets", "export", "d", "link"),
        ("predict", "m", "p.png", "--draw", "link"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(
    sightline: Command, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("gone")
    Image.new("RGB", (64, 64)).save("p.png")
    fakes.results = {"results.json": b"[]"}
    sightline("batch", "create", "m", "b", "s3://sightline/shared")
    outcome = sightline(*words)
    assert (outcome.code, "link cannot be read or written: " in outcome.err) == (1, True), outcome.err
    assert "fix: correct the path, or its permissions" in outcome.err


def test_the_largest_file_is_announced_first_so_that_one_too_large_is_refused_before_the_others_are_sent(
    sightline: Command, fakes: Fakes, coco: Path
) -> None:
    (coco.parent / "images" / "b.png").write_bytes(bytes(5000))
    fakes.errors["UploadFiles"] = [
        status(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "QuotaExceeded",
            "bytes of images/b.png: 5000 is more than the limit of 10 (SIGHTLINE_MAX_IMAGE_BYTES).",
            setting="SIGHTLINE_MAX_IMAGE_BYTES",
        )
    ]
    outcome = sightline("datasets", "create", "d", "--kind", "classification", "--coco", coco)
    assert outcome.code == 8
    assert "fix: scale the image down or leave it out of the COCO file" in outcome.err
    sightline("datasets", "create", "d", "--kind", "classification", "--coco", coco)
    assert next(iter(fakes.files)) == "images/b.png"


@pytest.mark.parametrize("folder", ["", ".sightline"])
def test_the_doctor_says_that_the_suite_may_be_in_another_folder(
    sightline: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in OF_THE_STORE:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / folder).mkdir(exist_ok=True)
    outcome = sightline("doctor", "--only", "keys")
    assert ("name its folder: --data DIR" in outcome.err) == (not folder)


@pytest.mark.parametrize("words", [("datasets", "list"), ("datasets", "list", "--json"), ("--help",), ("--version",)])
def test_a_full_disk_is_reported_in_a_sentence(address: str, words: tuple[str, ...]) -> None:
    addresses = dict.fromkeys(VARIABLES.values(), address)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sightline", *words],
            env=os.environ | addresses, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    assert done.stderr.decode() == (
        "error: the output cannot be written: No space left on device\nfix: make room on the disk, then repeat\n"
    )
    assert done.returncode == 1


def test_a_disk_that_becomes_full_is_told_from_a_wrong_path(
    sightline: Command, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    fakes.datasets["datasets/d"] = Dataset(name="datasets/d", state=Dataset.READY)
    outcome = sightline("datasets", "report", "d", "--html", tmp_path / "page.html")
    assert outcome.code == 1
    assert "error: the output cannot be written: No space left on device" in outcome.err
    assert "fix: make room on the disk" in outcome.err


def test_ctrl_c_during_the_imports_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "sightline", "datasets", "list"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, b"")


def test_processes_of_the_command_import_nothing_that_lies_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "email.py").write_text("raise SystemExit('of the working directory')")
    done = subprocess.run(
        [Path(sys.executable).parent / "sightline", "doctor", "--only", "devices", "--json"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout), done.stderr


def test_a_name_that_is_not_utf_8_is_refused_in_a_sentence(address: str) -> None:
    code, out, err = run(address, {}, "datasets", "show", os.fsdecode(b"caf\xe9"))
    assert (code, out) == (2, b"")
    assert err.decode() == "error: 'datasets/caf\\udce9' is not valid UTF-8\nfix: use UTF-8 in names and texts\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_without_a_standard_output_a_command_succeeds_silently(address: str, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "sightline", "datasets", "show", "d", *options]
    addresses = dict.fromkeys(VARIABLES.values(), address)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], env=os.environ | addresses, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
