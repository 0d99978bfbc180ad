"""`sightline predict` against a fake predictor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from PIL import Image

from sightline.cli import lettering
from sightline.cli.frames import inks_of
from sightline.client.transport.addresses import VARIABLES
from sightline.client.transport.retries import PAUSE_SECONDS, Backoff
from sightline.v1.prediction_service_pb2 import AnalyzeImageRequest
from tests.unit.cli.conftest import Command
from tests.unit.cli.fakes import Fakes, status

ORIENTATION = 0x0112  # EXIF tag


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    file = tmp_path / "p.jpg"
    Image.new("RGB", (64, 48), "blue").save(file)
    return file


def test_the_output_for_one_image_is_the_response_in_azures_format(sightline: Command, image_file: Path) -> None:
    answer = sightline("predict", "m", image_file, "--json").json
    assert answer["customModelResult"] == {
        "tagsResult": {"values": [{"name": "cat", "confidence": 0.75}, {"name": "dog", "confidence": 0.25}]}
    }


def test_the_output_for_several_images_is_one_json_document(sightline: Command, fakes: Fakes, image_file: Path) -> None:
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidImageFormat", "No image.")]
    outcome = sightline("predict", "m", image_file, image_file, "--json")
    assert outcome.code == 3
    answers = json.loads(outcome.out)
    assert [answer["id"] for answer in answers] == [str(image_file)] * 2
    assert sorted(key for answer in answers for key in answer if key != "id") == ["error", "response"]
    assert "InvalidImageFormat" in outcome.err


def test_a_folder_stands_for_its_images_in_order(sightline: Command, image_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("b/2.PNG", "a/1.png", ".hidden.png", ".thumbnails/1.png", "__MACOSX/b/2.PNG", "notes.txt", "c.heic"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image_file.read_bytes())
    shown = sightline("predict", "m", folder, "--json")
    assert [answer["id"] for answer in json.loads(shown.out)] == [str(folder / "a/1.png"), str(folder / "b/2.PNG")]
    assert "cannot be read here: 1 .heic file; convert" in shown.err
    (tmp_path / "empty").mkdir()
    outcome = sightline("predict", "m", tmp_path / "empty")
    assert outcome.code != 0
    assert "empty has no images" in outcome.err.replace("\n", "")


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("https://birds.org/owl.jpg", "is an address, not a file or folder; download it first"),
        ("owl", "does not exist"),
    ],
)
def test_an_image_that_is_not_on_this_machine_is_refused(sightline: Command, image: str, says: str) -> None:
    outcome = sightline("predict", "m", image)
    assert (outcome.code, says in " ".join(outcome.err.replace("│", "").split())) == (2, True), outcome.err


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(
    sightline: Command, image_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    outcome = sightline("predict", "m", tmp_path, "--json")
    dead, good = json.loads(outcome.out)
    assert (outcome.code, good["id"], "response" in good) == (3, str(image_file), True)
    assert (dead["error"]["code"], "dead.jpg cannot be read" in dead["error"]["message"]) == (3, True)
    assert "dead.jpg cannot be read" in outcome.err


def test_a_name_that_is_no_text_is_written_in_every_form(
    sightline: Command, fakes: Fakes, image_file: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd" / os.fsdecode(b"n\xff.jpg")
    odd.parent.mkdir()
    odd.write_bytes(image_file.read_bytes())
    refused = status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidImageSize", "image: is small", file="image")
    fakes.errors["AnalyzeImage"] = [refused]
    (answer,) = json.loads(sightline("predict", "m", odd.parent, "--json").out)
    assert (Path(answer["id"]), r"n\udcff.jpg: is small" in answer["error"]["message"]) == (odd, True)
    assert sightline("predict", "m", odd.parent, "--csv", tmp_path / "out.csv").code == 0
    assert rf"{odd.parent}/n\udcff.jpg,cat," in (tmp_path / "out.csv").read_text("utf-8")


def test_a_csv_file_has_a_line_for_each_tag_and_each_error(
    sightline: Command, fakes: Fakes, image_file: Path, tmp_path: Path
) -> None:
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidImageFormat", "No image.")]
    table = tmp_path / "found.csv"
    assert sightline("predict", "m", image_file, "--csv", table).code == 3
    sightline("predict", "m", image_file, "--csv", tmp_path / "tags.csv")
    header = "image,category,confidence,x,y,width,height,error"
    assert table.read_text().splitlines() == [header, f"{image_file},,,,,,,No image."]
    assert (tmp_path / "tags.csv").read_text().splitlines() == [
        header,
        f"{image_file},cat,0.750000,,,,,",
        f"{image_file},dog,0.250000,,,,,",
    ]


def test_explain_writes_an_overlay_for_the_first_result_of_each_image(
    sightline: Command, fakes: Fakes, image_file: Path, tmp_path: Path
) -> None:
    outcome = sightline("predict", "m", image_file, image_file, "--explain", tmp_path / "why")
    overlays = {path.name: path.read_bytes() for path in (tmp_path / "why").iterdir()}
    stem = image_file.stem
    assert overlays == {f"{stem}.png": b"PNG of cat", f"{stem}-2.png": b"PNG of cat"}
    assert f"{stem}.png shows what supports cat" in outcome.err
    fakes.objects = []
    sightline("predict", "m", image_file, "--explain", tmp_path / "nothing")
    assert list((tmp_path / "nothing").iterdir()) == []


def test_an_error_that_concerns_every_image_is_printed_once(sightline: Command, fakes: Fakes, image_file: Path) -> None:
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.NOT_FOUND, "ModelNotFound", "models/m does not exist.")] * 9
    outcome = sightline("predict", "m", *[image_file] * 9)
    assert outcome.code == 5
    assert outcome.err.count("ModelNotFound") == 1


def test_draw_writes_each_image_upright_with_its_tags_below(
    sightline: Command, fakes: Fakes, image_file: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (400, 300), "blue").save(turned, exif=exif)
    outcome = sightline("predict", "m", turned, image_file, "--draw", tmp_path / "drawn")
    assert outcome.code == 0, outcome.err
    with Image.open(tmp_path / "drawn" / "turned.png") as drawn:
        assert drawn.width == 320
        assert drawn.height > 427
        bottom = drawn.crop((0, 430, drawn.width, drawn.height))
        assert (255, 255, 255) in {colour for _, colour in bottom.getcolors(1 << 20) or []}
    assert (tmp_path / "drawn" / "p.png").exists()


def test_pictures_replace_neither_the_images_nor_one_another(sightline: Command, fakes: Fakes, tmp_path: Path) -> None:
    folder, image = tmp_path, tmp_path / "p.png"
    Image.new("RGB", (60, 60), "blue").save(image)
    before = image.read_bytes()
    (folder / "p-2.png").write_bytes(b"another image")
    assert sightline("predict", "m", image, "--draw", folder, "--explain", folder).code == 0
    assert image.read_bytes() == before
    assert (folder / "p-2.png").read_bytes() == b"another image"
    assert (folder / "p-3.png").read_bytes() == b"PNG of cat"
    with Image.open(folder / "p-4.png") as drawn:
        assert drawn.width == 320


def test_characters_that_no_font_has_are_named_once(
    sightline: Command, fakes: Fakes, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lettering, "_installed", tuple)
    fakes.tags = [("\U00020bb7\U00020bb7", 0.75), ("cat", 0.25)]
    (tmp_path / "b.png").write_bytes(image_file.read_bytes())
    outcome = sightline("predict", "m", image_file, tmp_path / "b.png", "--draw", tmp_path / "drawn")
    assert outcome.code == 0
    assert outcome.err.count("note: drawn as ?, for lack of a font: \U00020bb7\n") == 1
    fakes.tags = [("dog", 0.75), ("caf\xe9", 0.25)]
    assert "note" not in sightline("predict", "m", image_file, "--draw", tmp_path / "drawn").err


def test_a_16_bit_image_is_drawn_as_the_model_sees_it(sightline: Command, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65_535, 320).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (320, 1))).save(tmp_path / "deep.png")
    assert sightline("predict", "m", tmp_path / "deep.png", "--draw", tmp_path / "drawn").code == 0
    with Image.open(tmp_path / "drawn" / "deep.png") as drawn:
        assert [drawn.getpixel((x, 0)) for x in (0, 160, 319)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_objects_are_listed_one_per_line_with_their_boxes_and_drawn(
    sightline: Command, fakes: Fakes, image_file: Path, tmp_path: Path
) -> None:
    fakes.objects = [("cat", 0.9, (0, 1, 32, 24)), ("[dog]", 0.4, (7, 8, 9, 10))]
    outcome = sightline("predict", "m", image_file, "--draw", tmp_path / "drawn")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines() if "%" in line]
    assert lines[0][1:8] == ["cat", "90.0", "%", "0", "1", "32", "24"]
    assert lines[1] == ["[dog]", "40.0", "%", "7", "8", "9", "10"]
    with Image.open(tmp_path / "drawn" / "p.png") as drawn:
        assert drawn.getpixel((1, 140)) == inks_of(["cat", "[dog]"])["cat"], "its left edge"


def test_neither_libraries_nor_libtiff_write_into_the_commands_output(sightline: Command, tmp_path: Path) -> None:
    assert sightline  # its fake services answer the process below
    palette = Image.new("P", (64, 48))
    palette.save(tmp_path / "warns.png", transparency=bytes(range(200)))
    noise = Image.effect_noise((480, 480), 90).convert("1")
    noise.save(tmp_path / "damaged.tif", compression="group4")
    data = bytearray((tmp_path / "damaged.tif").read_bytes())
    data[2000:2400] = bytes(byte ^ 0xFF for byte in data[2000:2400])
    (tmp_path / "damaged.tif").write_bytes(data)
    for name in ("warns.png", "damaged.tif"):
        words = ["predict", "m", str(tmp_path / name), "--draw", str(tmp_path / "drawn")]
        ended = subprocess.run([sys.executable, "-m", "sightline", *words], capture_output=True, text=True, check=True)
        assert (tmp_path / "drawn" / name).with_suffix(".png").exists()
        assert ended.stderr == ""


def test_an_image_that_cannot_be_drawn_is_named(sightline: Command, tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    outcome = sightline("predict", "m", tmp_path / "a.heic", "--draw", tmp_path / "drawn")
    assert outcome.code == 1
    assert f"{tmp_path / 'a.heic'} cannot be drawn" in outcome.err
    assert "BytesIO" not in outcome.err


def test_an_image_without_objects_says_so(sightline: Command, fakes: Fakes, image_file: Path) -> None:
    fakes.objects = []
    assert "nothing above the threshold" in sightline("predict", "m", image_file).out
    empty = {"objectsResult": {"values": []}}
    assert sightline("predict", "m", image_file, "--json").json["customModelResult"] == empty
    several = json.loads(sightline("predict", "m", image_file, image_file, "--json").out)
    assert [one["response"]["customModelResult"] for one in several] == [empty, empty]


def test_the_request_follows_the_options(sightline: Command, fakes: Fakes, image_file: Path) -> None:
    for words in ([], ["--threshold", "0", "--top", "2"], ["--suggested-thresholds"]):
        assert sightline("predict", "m", image_file, *words).code == 0
    plain, bounded, suggested = (cast(AnalyzeImageRequest, request) for request in fakes.requests)
    assert not plain.HasField("score_threshold")
    assert not plain.HasField("max_results")
    assert not plain.use_suggested_thresholds
    assert bounded.HasField("score_threshold")
    assert (bounded.score_threshold, bounded.max_results) == (0, 2)
    assert suggested.use_suggested_thresholds
    assert {request.model_name for request in (plain, bounded, suggested)} == {"models/m"}
    assert sightline("predict", "m", image_file, "--suggested-thresholds", "--threshold", "0.5").code == 2
    assert len(fakes.requests) == 3


def test_the_requested_number_of_tags_is_shown(sightline: Command, fakes: Fakes, image_file: Path) -> None:
    fakes.tags = [(name, 0.2) for name in ("a1", "b2", "c3", "d4", "e5")]
    assert "c3" in (shown := sightline("predict", "m", image_file).out)
    assert "d4" not in shown
    assert "e5" in sightline("predict", "m", image_file, "--top", "5").out


@pytest.mark.parametrize("several", [False, True])
def test_a_refused_image_is_named_by_its_file(
    sightline: Command, fakes: Fakes, image_file: Path, several: bool
) -> None:
    message, problem = "image: is 40 x 40 pixels", "is 40 x 40 pixels"
    refusal = status(grpc.StatusCode.INVALID_ARGUMENT, "InvalidImageSize", message, file="image", problem=problem)
    fakes.errors["AnalyzeImage"] = [refusal] * 2
    outcome = sightline("predict", "m", *[image_file] * (1 + several), "--json")
    assert outcome.code == 3
    assert outcome.err.count(f"  {image_file}: is 40 x 40 pixels") == 1 + several
    assert outcome.err.count(str(image_file)) == 1 + several, "it is named once"
    assert "image: is" not in outcome.err
    if several:
        (error, _) = [one["error"] for one in json.loads(outcome.out)]
        assert error["message"] == f"{image_file}: is 40 x 40 pixels"
        assert error["details"][0]["metadata"] == {"file": str(image_file), "problem": problem}


@pytest.mark.usefixtures("quick_retries")
def test_an_unreachable_service_is_reported_with_its_address_its_variable_and_the_remedy(
    sightline: Command, image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLES["predictor"], "127.0.0.1:1")
    outcome = sightline("predict", "m", image_file)
    assert outcome.code == 14
    assert "predictor" in outcome.err
    assert "127.0.0.1:1" in outcome.err
    assert "SIGHTLINE_PREDICTOR_ADDRESS" in outcome.err
    assert "sightline up" in outcome.err
    assert "SIGHTLINE_DATASET_ADDRESS" not in outcome.err


def test_retries_wait_longer_each_time_up_to_a_limit_and_then_give_up() -> None:
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    backoff, error = Backoff(10.0, lambda: now[0], sleep), _Unreachable()
    while now[0] <= 10.0:
        backoff.wait(error)
    with pytest.raises(_Unreachable):
        backoff.wait(error)
    assert pauses[0] == PAUSE_SECONDS[0]
    assert max(pauses) == PAUSE_SECONDS[1]


class _Unreachable(grpc.RpcError, grpc.Call):
    """The error of a call to an unreachable service."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def initial_metadata(self):
        return ()

    def trailing_metadata(self):
        return ()

    def details(self) -> str:
        return ""

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback) -> bool:
        return False


def test_a_coverage_adds_the_prediction_set_to_the_table_and_the_document(
    sightline: Command, fakes: Fakes, image_file: Path
) -> None:
    fakes.tags = [("cat", 0.5), ("sea dog", 0.45), ("owl", 0.05)]
    shown = sightline("predict", "m", image_file, "--coverage", 0.9, "--top", 1).out
    assert "SET AT 90 %" in shown
    assert "cat, sea dog, owl" in shown
    answer = sightline("predict", "m", image_file, "--coverage", 0.9, "--json").json
    found = answer["customModelResult"]["tagsResult"]["predictionSet"]
    assert (found["coverage"], found["categories"]) == (0.9, ["cat", "sea dog", "owl"])
    assert "SET AT" not in sightline("predict", "m", image_file).out


def test_a_coverage_that_the_model_cannot_give_says_which_it_can(
    sightline: Command, fakes: Fakes, image_file: Path
) -> None:
    why = (
        "models/m cannot give prediction sets of coverage 0.9: it was calibrated on 4 images, which allow at most 0.8."
    )
    fakes.errors["AnalyzeImage"] = [status(grpc.StatusCode.FAILED_PRECONDITION, "CoverageUnavailable", why)]
    outcome = sightline("predict", "m", image_file, "--coverage", 0.9)
    assert outcome.code == 9
    assert "at most 0.8" in outcome.err
