"""Exports of further tools, written by hand after their documentation: `1.jpg` shows a cat, `2.jpg` a dog.

Both measure 80 x 60 pixels, and the boxes are [8, 6, 40, 30], in whatever way the tool writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.importers.image_files import ImagesUnresolved
from sightline.importers.model import Format, ImportFault
from sightline.importers.package import pack
from sightline.importers.read import read
from tests.unit.importers import exports
from tests.unit.importers.exports import coco_file, pictures
from tests.unit.importers.test_formats import marks, told

NAMES = {1: "cat", 2: "dog"}
PIXELS, SHARES = [8, 6, 40, 30], [0.1, 0.1, 0.5, 0.5]


def lines(make: Any) -> str:
    """A line of JSON for each image and its label."""
    return "".join(json.dumps(make(number, name)) + "\n" for number, name in NAMES.items())


def sagemaker(number: int, name: str) -> dict[str, Any]:
    box = {"class_id": number, "left": 8, "top": 6, "width": 40, "height": 30}
    classes = {str(each): label for each, label in NAMES.items()}
    about = {"objects": [{"confidence": 1}], "class-map": classes, "type": "groundtruth/object-detection"}
    sides = [{"width": 80, "height": 60, "depth": 3}]
    return {
        "source-ref": f"s3://b/p/{number}.jpg",
        "job": {"image_size": sides, "annotations": [box]},
        "job-metadata": about,
    }


def labelbox(number: int, name: str) -> dict[str, Any]:
    box = {
        "name": name,
        "annotation_kind": "ImageBoundingBox",
        "bounding_box": {"top": 6, "left": 8, "height": 30, "width": 40},
    }
    project = {"labels": [{"annotations": {"objects": [box], "classifications": []}}]}
    row = {"id": "c1", "external_id": f"{number}.jpg", "row_data": "https://storage/c1?x"}
    return {"data_row": row, "media_attributes": {"width": 80, "height": 60}, "projects": {"p": project}}


def datumaro(*, boxes: bool) -> str:
    labels = [{"name": name, "parent": "", "attributes": []} for name in NAMES.values()]
    one = {"id": 0, "type": "bbox", "bbox": PIXELS, "group": 1} if boxes else {"id": 0, "type": "label"}
    items = [
        {"id": str(n), "annotations": [{**one, "label_id": n - 1}], "image": {"path": f"{n}.jpg", "size": [60, 80]}}
        for n in NAMES
    ]
    return json.dumps({"categories": {"label": {"labels": labels}, "points": {"items": []}}, "items": items})


def vott(number: int, state: int = 2, **region: Any) -> dict[str, Any]:
    """What VoTT keeps for an image."""
    asset = {"id": f"a{number}", "name": f"{number}.jpg", "path": f"file:C:/me/{number}.jpg", "state": state}
    box = dict(zip(("left", "top", "width", "height"), PIXELS, strict=True))
    one = {"id": "r", "type": "RECTANGLE", "tags": [NAMES[number]], "boundingBox": box, "points": [], **region}
    return {"asset": {**asset, "size": {"width": 80, "height": 60}}, "regions": [one], "version": "2.2.0"}


def via3(xy: list[int]) -> str:
    """A project with a mark of this shape in each image; an empty one is about the whole image."""
    options = {str(n): name for n, name in NAMES.items()}
    about = {"aname": "class", "type": 4, "options": options, "anchor_id": "FILE1_Z0_XY1"}
    return json.dumps(
        {
            "project": {"pname": "p", "vid_list": ["1", "2"]},
            "config": {},
            "attribute": {"1": about},
            "file": {n: {"fid": str(n), "fname": f"{n}.jpg", "type": 2, "loc": 1, "src": ""} for n in NAMES},
            "view": {n: {"fid_list": [str(n)]} for n in NAMES},
            "metadata": {f"m{n}": {"vid": str(n), "flg": 0, "z": [], "xy": xy, "av": {"1": str(n)}} for n in NAMES},
        }
    )


def scalabel(number: int, **shape: Any) -> dict[str, Any]:
    """A frame with one label."""
    return {"name": f"{number}.jpg", "labels": [{"id": "0", "category": NAMES[number], **shape}]}


CORNERS = {"x1": 8, "y1": 6, "x2": 48, "y2": 36}
OUTLINE = [[8, 6], [48, 6], [48, 36]]
LOCATED = {
    "SageMaker Ground Truth": ("output.manifest", Format.LINES, lines(sagemaker)),
    "Labelbox": ("export.ndjson", Format.LINES, lines(labelbox)),
    "Hugging Face": (
        "metadata.jsonl",
        Format.LINES,
        lines(
            lambda n, name: {
                "file_name": f"{n}.jpg",
                "width": 80,
                "height": 60,
                "objects": {"bbox": [PIXELS], "categories": [name]},
            }
        ),
    ),
    "Hugging Face, an object each": (
        "metadata.jsonl",
        Format.LINES,
        lines(lambda n, name: {"image": f"{n}.jpg", "objects": [{"bbox": PIXELS, "category": name}]}),
    ),
    "Azure ML": (
        "train.jsonl",
        Format.LINES,
        lines(
            lambda n, name: {
                "image_url": f"azureml://subscriptions/s/datastores/d/paths/x/{n}.jpg",
                "image_details": {"format": "jpg", "width": "80px", "height": "60px"},
                "label": [{"label": name, "topX": 0.1, "topY": 0.1, "bottomX": 0.6, "bottomY": 0.6, "isCrowd": 0}],
            }
        ),
    ),
    "Vertex AI": (
        "data.jsonl",
        Format.LINES,
        lines(
            lambda n, name: {
                "imageGcsUri": f"gs://b/{n}.jpg",
                "boundingBoxAnnotations": [{"displayName": name, "xMin": "0.1", "yMin": 0.1, "xMax": 0.6, "yMax": 0.6}],
            }
        ),
    ),
    "Ultralytics": (
        "export.ndjson",
        Format.LINES,
        '{"type": "dataset", "class_names": {"0": "cat", "1": "dog"}}\n'
        + lines(
            lambda n, name: {
                "type": "image",
                "file": f"{n}.jpg",
                "width": 80,
                "height": 60,
                "split": "train",
                "annotations": {"boxes": [[n - 1, 0.35, 0.35, 0.5, 0.5]]},
            }
        ),
    ),
    "AutoML": (
        "import.csv",
        Format.CSV,
        "TRAIN,gs://b/1.jpg,cat,0.1,0.1,,,0.6,0.6,,\nTEST,gs://b/2.jpg,dog,0.1,0.1,0.6,0.1,0.6,0.6,0.1,0.6\n",
    ),
    "Open Images": (
        "boxes.csv",
        Format.CSV,
        "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n1,cat,0.1,0.6,0.1,0.6,0\n2,dog,0.1,0.6,0.1,0.6,0\n",
    ),
    "Make Sense": ("labels.csv", Format.CSV, "cat,8,6,40,30,1.jpg,80,60\ndog,8,6,40,30,2.jpg,80,60\n"),
    "Kaggle": ("train.csv", Format.CSV, 'image_id,label,bbox\n1,cat,"[8, 6, 40, 30]"\n2,dog,"[8.0 6.0 40.0 30.0]"\n'),
    "VIA": (
        "via.csv",
        Format.VIA,
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        + "".join(
            f'{n}.jpg,1,{{}},1,0,"{{""name"":""rect"",""x"":8,""y"":6,""width"":40,""height"":30}}","{{""class"":""{name}""}}"\n'
            for n, name in NAMES.items()
        ),
    ),
    "Label Studio": (
        "export.csv",
        Format.LABEL_STUDIO,
        "annotation_id,annotator,created_at,id,image,label,lead_time,updated_at\n"
        + "".join(
            f"{n},1,x,{n},http://localhost:8080/data/upload/1/0a1b2c3d-{n}.jpg,"
            f'"[{{""x"":10,""y"":10,""width"":50,""height"":50,""rectanglelabels"":[""{name}""]}}]",1.0,x\n'
            for n, name in NAMES.items()
        ),
    ),
    "Datumaro": ("annotations/default.json", Format.DATUMARO, datumaro(boxes=True)),
    "FiftyOne": (
        "labels.json",
        Format.FIFTYONE,
        json.dumps(
            {
                "classes": ["cat", "dog"],
                "labels": {str(n): [{"label": n - 1, "bounding_box": SHARES}] for n in NAMES},
            }
        ),
    ),
    "VoTT": ("vott-json-export/birds-export.json", Format.VOTT, json.dumps({"assets": {n: vott(n) for n in NAMES}})),
    "VIA 3": ("project.json", Format.VIA, via3([2, *PIXELS])),
    "VIA 3's polygons": ("project.json", Format.VIA, via3([7, 8, 6, 48, 6, 48, 36, 8, 36])),
    "VIA 3's extreme points": ("project.json", Format.VIA, via3([8, 28, 6, 48, 20, 30, 36, 8, 21])),
    "VIA 3's ellipses": ("project.json", Format.VIA, via3([4, 28, 21, 20, 15])),
    "BDD100K": ("labels.json", Format.SCALABEL, json.dumps([scalabel(n, box2d=CORNERS) for n in NAMES])),
    "Scalabel": (
        "labels.json",
        Format.SCALABEL,
        json.dumps({"frames": [scalabel(n, poly2d=[{"vertices": OUTLINE}]) for n in NAMES], "config": {}}),
    ),
}
TAGGED = {
    "VIA 3": ("project.json", Format.VIA, via3([])),
    "Scalabel": ("labels.json", Format.SCALABEL, json.dumps([scalabel(n) for n in NAMES])),
    "Rekognition": (
        "my.manifest",
        Format.LINES,
        lines(
            lambda n, name: {
                "source-ref": f"s3://b/{n}.jpg",
                "job": n,
                "job-metadata": {"class-name": name, "type": "groundtruth/image-classification"},
            }
        ),
    ),
    "Hugging Face": ("metadata.jsonl", Format.LINES, lines(lambda n, name: {"file_name": f"{n}.jpg", "label": name})),
    "Hugging Face's CSV": ("metadata.csv", Format.CSV, "file_name,label\n1.jpg,cat\n2.jpg,dog\n"),
    "Azure ML": (
        "a.jsonl",
        Format.LINES,
        lines(lambda n, name: {"image_url": f"AmlDatastore://x/{n}.jpg", "label": name}),
    ),
    "Vertex AI": (
        "a.jsonl",
        Format.LINES,
        lines(lambda n, name: {"imageGcsUri": f"gs://b/{n}.jpg", "classificationAnnotation": {"displayName": name}}),
    ),
    "AutoML": ("a.csv", Format.CSV, "TRAIN,gs://b/1.jpg,cat\nTEST,gs://b/2.jpg,dog\n"),
    "flags": ("a.csv", Format.CSV, "image,cat,dog\n1,1.0,0.0\n2,0.0,1.0\n"),
    "flags with spaces": ("_classes.csv", Format.CSV, "filename, cat, dog\n1.jpg, 1, 0\n2.jpg, 0, 1\n"),
    "a header of other words": ("a.csv", Format.CSV, "picture;animal\n1.jpg;cat\n2.jpg;dog\n"),
    "CreateML": (
        "a.json",
        Format.CREATEML,
        json.dumps([{"image": f"{n}.jpg", "annotations": name} for n, name in NAMES.items()]),
    ),
    "CreateML's lists of texts": (
        "a.json",
        Format.CREATEML,
        json.dumps([{"image": f"{n}.jpg", "annotations": [name]} for n, name in NAMES.items()]),
    ),
    "CreateML's labels": (
        "a.json",
        Format.CREATEML,
        json.dumps([{"imagefilename": f"{n}.jpg", "annotation": [{"label": name}]} for n, name in NAMES.items()]),
    ),
    "Datumaro": ("annotations/train.json", Format.DATUMARO, datumaro(boxes=False)),
    "FiftyOne": ("labels.json", Format.FIFTYONE, json.dumps({"classes": ["cat", "dog"], "labels": {"1": 0, "2": 1}})),
    "FiftyOne, with confidences": (
        "labels.json",
        Format.FIFTYONE,
        json.dumps({"labels": {str(n): {"label": name, "confidence": 1} for n, name in NAMES.items()}}),
    ),
}


def written(folder: Path, name: str, text: str) -> Path:
    pictures(folder / "images", ["1.jpg", "2.jpg"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("tool", LOCATED)
def test_boxes_of_a_tool(tmp_path: Path, tool: str) -> None:
    name, form, text = LOCATED[tool]
    imported = read(written(tmp_path, name, text))
    assert imported.format is form
    found = marks(pack(imported))
    assert {path: label for path, ((label, _),) in found.items()} == {"images/1.jpg": "cat", "images/2.jpg": "dog"}
    assert all(box in (PIXELS, SHARES) for ((_, box),) in found.values())


@pytest.mark.parametrize(
    "tool", ["SageMaker Ground Truth", "Labelbox", "Hugging Face", "Azure ML", "Ultralytics", "Make Sense"]
)
def test_the_sides_that_a_tool_declares_are_kept(tmp_path: Path, tool: str) -> None:
    name, _, text = LOCATED[tool]
    assert {(image.width, image.height) for image in read(written(tmp_path, name, text)).images} == {(80, 60)}


@pytest.mark.parametrize("tool", TAGGED)
def test_labels_of_a_tool(tmp_path: Path, tool: str) -> None:
    name, form, text = TAGGED[tool]
    imported = read(written(tmp_path, name, text))
    assert (imported.format, imported.detection) == (form, False)
    assert marks(pack(imported)) == {"images/1.jpg": [("cat", [])], "images/2.jpg": [("dog", [])]}


def test_open_images_codes_are_replaced_by_names(tmp_path: Path) -> None:
    text = "ImageID,LabelName,XMin,XMax,YMin,YMax\n1,/m/01yrx,0.1,0.6,0.1,0.6\n2,/m/0bt9lr,0.1,0.6,0.1,0.6\n"
    folder = written(tmp_path, "train-annotations-bbox.csv", text)
    assert "classes keep Open Images' codes" in told(read(folder))
    (folder / "class-descriptions-boxable.csv").write_text("/m/01yrx,cat\n/m/0bt9lr,dog\n")
    assert read(folder).categories == ("cat", "dog")


def test_labels_that_open_images_says_are_absent_are_left_out(tmp_path: Path) -> None:
    text = "ImageID,Source,LabelName,Confidence\n1,verification,cat,1\n1,verification,dog,0\n2,machine,dog,0.7\n"
    imported = read(written(tmp_path, "labels.csv", text))
    assert marks(pack(imported)) == {"images/1.jpg": [("cat", [])], "images/2.jpg": [("dog", [])]}
    assert "left out: 1 label that is not in the image" in told(imported)


@pytest.mark.parametrize(
    "mark",
    [
        {"type": "polygon", "points": [8, 6, None, 6, 48, 36]},
        {"type": "polyline", "points": [8, 6, 48]},
        {"type": "bbox", "bbox": [8, None, 6, 40, 30]},
        {"type": "bbox", "bbox": 5},
    ],
)
def test_a_shape_of_datumaro_that_lacks_a_number_is_named(tmp_path: Path, mark: dict[str, Any]) -> None:
    items = [{"id": "1", "annotations": [{**mark, "label_id": 0}]}]
    labels = {"label": {"labels": [{"name": "cat"}]}}
    folder = written(tmp_path, "a.json", json.dumps({"categories": labels, "items": items}))
    with pytest.raises(ImportFault) as caught:
        read(folder)
    assert caught.value.faults == (f"1, annotation 1 (cat): a {mark['type']} lacks a number",)


def test_what_is_not_fiftyones_is_refused_if_it_is_said_to_be(tmp_path: Path) -> None:
    folder = written(tmp_path, "labels.json", json.dumps({"classes": 5, "labels": {"1": 0}}))
    with pytest.raises(ImportFault, match="not in FiftyOne's form"):
        read(folder / "labels.json", form=Format.FIFTYONE)


@pytest.mark.parametrize("mark", [None, True, [], {}, {"label": "cat", "coordinates": {"x": 1}}])
def test_an_annotation_of_createml_that_is_neither_a_label_nor_a_box_is_named(tmp_path: Path, mark: Any) -> None:
    folder = written(tmp_path, "a.json", json.dumps([{"image": "1.jpg", "annotations": [mark]}]))
    with pytest.raises(ImportFault) as caught:
        read(folder)
    assert caught.value.faults == ("1.jpg, annotation 1: it lacks its label, or one of x, y, width, height",)


@pytest.mark.parametrize(
    "boxes",
    [
        *([{"label": "cat", "bounding_box": box}] for box in (5, True, [0.1, 0.1, 0.5], [0.1, None, 0.1, 0.5, 0.5])),
        *(5, [5], [["cat", 0.1, 0.1, 0.5, 0.5]]),
    ],
)
def test_a_box_of_fiftyone_without_four_numbers_is_named(tmp_path: Path, boxes: Any) -> None:
    content = {"classes": ["cat"], "labels": {"1": {"detections": boxes}}}
    folder = written(tmp_path, "labels.json", json.dumps(content))
    with pytest.raises(ImportFault) as caught:
        read(folder)
    assert caught.value.faults == ("1, object 1: it lacks a label, or one of four numbers in bounding_box",)


def test_vott_keeps_a_file_for_each_image(tmp_path: Path) -> None:
    for number, state in ((1, 2), (2, 0)):
        written(tmp_path, f"a{number}-asset.json", json.dumps(vott(number, state, tags=["cat", "pet"])))
    (tmp_path / "birds.vott").write_text("{}")
    for source, form in ((tmp_path, None), (tmp_path, Format.VOTT), (tmp_path / "birds.vott", None)):
        imported = read(source, form=form)
        assert imported.format is Format.VOTT
        assert marks(pack(imported)) == {"images/1.jpg": [("cat", PIXELS), ("pet", PIXELS)]}
        assert "left out: 1 image that nobody has opened in VoTT" in told(imported)
    written(tmp_path, "out/export.json", json.dumps({"assets": {"a1": vott(1)}, "tags": []}))
    for source in (tmp_path, tmp_path / "a1-asset.json"):
        assert [image.name for image in read(source, form=Format.VOTT).images] == ["1.jpg"]


@pytest.mark.parametrize(
    ("region", "lacks"),
    [
        ({"tags": []}, "a tag"),
        ({"tags": None}, "a tag"),
        ({"boundingBox": {"left": 8, "top": None, "width": 40}}, "one of left, top, width, height"),
    ],
)
def test_a_region_of_vott_that_lacks_something_is_named(tmp_path: Path, region: dict[str, Any], lacks: str) -> None:
    folder = written(tmp_path, "export.json", json.dumps({"assets": {"a1": vott(1, **region)}}))
    with pytest.raises(ImportFault) as caught:
        read(folder)
    assert caught.value.faults == (f"1.jpg, region 1: it lacks {lacks}",)


def test_lanes_of_bdd100k_are_left_out_as_other_labels_are_boxes(tmp_path: Path) -> None:
    frame = scalabel(1, box2d=CORNERS)
    frame["labels"].append({"category": "lane", "poly2d": [{"vertices": OUTLINE, "closed": False}]})
    imported = read(written(tmp_path, "labels.json", json.dumps([frame, {"name": "2.jpg", "labels": None}])))
    assert marks(pack(imported)) == {"images/1.jpg": [("cat", PIXELS)], "images/2.jpg": []}
    assert "left out: 1 outline of lanes and areas, as other labels are boxes" in told(imported)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ({"category": "", "box2d": CORNERS}, "it has no category"),
        ({"category": "cat", "box2d": {"x1": 8}}, "(cat): its box2d is no box or outline with all numbers"),
    ],
)
def test_a_label_of_scalabel_that_lacks_something_is_named(tmp_path: Path, label: dict[str, Any], says: str) -> None:
    folder = written(tmp_path, "labels.json", json.dumps([{"name": "1.jpg", "labels": [label]}]))
    with pytest.raises(ImportFault) as caught:
        read(folder)
    assert [fault.removeprefix("1.jpg, label 1").lstrip(": ") for fault in caught.value.faults] == [says]


def test_times_and_several_files_at_once_in_via_3_say_nothing_of_an_image(tmp_path: Path) -> None:
    project = json.loads(via3([2, *PIXELS]))
    project["view"]["3"] = {"fid_list": ["1", "2"]}
    project["metadata"] |= {
        "pair": {"vid": "3", "z": [], "xy": [2, *PIXELS], "av": {"1": "1"}},
        "time": {"vid": "1", "z": [0.5], "xy": [2, *PIXELS], "av": {"1": "2"}},
        "point": {"vid": "1", "z": [], "xy": [1, 8, 6], "av": {"1": "2"}},
    }
    imported = read(written(tmp_path, "project.json", json.dumps(project)))
    assert marks(pack(imported)) == {"images/1.jpg": [("cat", PIXELS)], "images/2.jpg": [("dog", PIXELS)]}
    assert "left out: 1 region of the kind point" in told(imported)


@pytest.mark.parametrize("place", ["", "C:\\data\\", "/home/me/data/"])
def test_darknet(tmp_path: Path, place: str) -> None:
    pictures(tmp_path / "obj", ["1.jpg", "2.jpg"])
    for number in NAMES:
        (tmp_path / "obj" / f"{number}.txt").write_text(f"{number - 1} 0.35 0.35 0.5 0.5\n")
        (tmp_path / f"list{number}.txt").write_text(f"{place}obj/{number}.jpg\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/list1.txt\nvalid = data/list2.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    for source in (tmp_path, tmp_path / "obj.data"):
        imported = read(source)
        assert (imported.format, imported.splits) == (Format.YOLO, {"train": 1, "val": 1})
        assert marks(pack(imported)) == {"obj/1.jpg": [("cat", SHARES)], "obj/2.jpg": [("dog", SHARES)]}


def test_files_of_splits_side_by_side(tmp_path: Path) -> None:
    written(tmp_path, "train_labels.csv", "filename,class\n1.jpg,cat\n")
    (tmp_path / "test_labels.csv").write_text("filename,class\n2.jpg,dog\n")
    assert read(tmp_path).splits == {"train": 1, "test": 1}


def test_a_table_in_utf_16_is_read_as_excel_saves_it(tmp_path: Path) -> None:
    pictures(tmp_path, ["1.jpg"])
    (tmp_path / "a.csv").write_bytes("path\tlabel\r\n1.jpg\tKatze ä\r\n".encode("utf-16"))
    assert read(tmp_path).categories == ("Katze ä",)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("data.yaml", "train: images\nnc: 2\n", "lists no classes under `names`"),
        ("a.jsonl", '{"file_name": "1.jpg", "label": "cat"}\n{"file_name": ', "line 2 cannot be read as JSON"),
        ("notes.json", '{"kind": "via 3"}', "it has notes.json (JSON with kind), whose content is none of them"),
        ("data.parquet", "PAR1", "it has data.parquet, whose content is none of them"),
    ],
)
def test_what_is_lacking_is_said(tmp_path: Path, name: str, text: str, says: str) -> None:
    pictures(tmp_path, ["1.jpg"])
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert says in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"objects": {"bbox": [PIXELS], "category_id": ["cat"]}},
        {"objects": {"bboxes": [PIXELS], "class": ["cat"]}},
        {"objects": {"bbox": PIXELS, "category": "cat"}},
        {"objects": [{"box": PIXELS, "class_name": "cat"}]},
        {"bbox": PIXELS, "label": "cat"},
        {"bboxes": [PIXELS], "labels": ["cat"]},
    ],
)
def test_fields_of_hugging_face_have_many_names(tmp_path: Path, fields: dict[str, Any]) -> None:
    pictures(tmp_path, ["1.jpg"])
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "1.jpg", **fields}))
    assert marks(pack(read(tmp_path))) == {"1.jpg": [("cat", PIXELS)]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"objects": {"bbox": [PIXELS, PIXELS], "categories": ["cat"]}}, "it has 2 boxes, and 1 category for them"),
        ({"objects": {"bbox": [PIXELS]}}, "it has 1 box, and 0 categories for them"),
        ({"objects": {"rects": [PIXELS], "kinds": ["cat"]}}, "its objects have no bbox, but rects, kinds"),
        ({"objects": [PIXELS]}, "1 of its labels lacks a name or a number"),
        ({"objects": "[]"}, "its objects are neither a list nor an object"),
        ({"label": True}, "1 of its labels lacks a name or a number"),
        ({"label": {"id": 1}}, "1 of its labels lacks a name or a number"),
    ],
)
def test_labels_of_hugging_face_that_are_not_clear_are_refused(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(json.dumps({"file_name": "1.jpg", **fields}))
    with pytest.raises(ImportFault) as caught:
        read(file)
    assert [fault.partition(": ") for fault in caught.value.faults] == [("line 1", ": ", says)]


def test_boxes_of_an_image_in_several_lines_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(2 * (json.dumps({"file_name": "1.jpg", "bbox": PIXELS, "label": "cat"}) + "\n"))
    with pytest.raises(ImportFault) as caught:
        read(file)
    assert list(caught.value.faults) == ["1.jpg: 2 lines have its boxes; put them into one"]


def test_a_string_of_json_lines_may_have_line_breaks_of_unicode(tmp_path: Path) -> None:
    pictures(tmp_path, ["1.jpg", "2.jpg"])
    text = "\r\n".join(
        json.dumps({"file_name": f"{n}.jpg", "label": name, "text": "a\u2028b\x85c"}, ensure_ascii=False)
        for n, name in NAMES.items()
    )
    (tmp_path / "metadata.jsonl").write_text(text, newline="")
    assert marks(pack(read(tmp_path))) == {"1.jpg": [("cat", [])], "2.jpg": [("dog", [])]}


def test_a_line_of_json_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"file_name": "1.jpg", "label": "cat"}\n' + "[" * 100_000)
    with pytest.raises(ImportFault, match="line 2 cannot be read as JSON"):
        read(file)


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        (
            "a.jsonl",
            '{"file_name": "1.jpg", "objects": [{"bbox": [1, 2, 3], "category": "cat"}]}\n{"text": "no image"}\n',
            [
                "line 1: 1 of its labels lacks a name or a number",
                "line 2: it names no image in a form that is known here",
            ],
        ),
        ("labels.json", '{"classes": ["cat"], "labels": {"1": 4}}', ["1: 4 is not in the list of 1 class"]),
        (
            "annotations/a.json",
            datumaro(boxes=True).replace('"label_id": 1', '"label_id": 7'),
            ["2, annotation 1: its label_id is not in the list of 2 labels"],
        ),
        ("a.csv", 'image_id,label,bbox\n1.jpg,cat,"[8, 6, 40]"\n', ["line 2, 1.jpg: bbox has 3 numbers"]),
        ("a.csv", "TRAIN,gs://b/1.jpg,cat,0.1,,,0.2,,0.3,0.4,\n", ["line 1, gs://b/1.jpg: its box lacks a corner"]),
    ],
)
def test_every_fault_of_an_export_is_named(tmp_path: Path, name: str, text: str, faults: list[str]) -> None:
    with pytest.raises(ImportFault) as caught:
        read(written(tmp_path, name, text) / name)
    assert list(caught.value.faults) == faults


def test_images_in_one_folder_of_a_name_that_says_nothing_are_no_class(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["1.jpg", "2.jpg"])
    with pytest.raises(ImportFault, match=r"all images of .* are in one folder, images"):
        read(tmp_path)


def test_one_class_is_a_class(tmp_path: Path) -> None:
    pictures(tmp_path / "raccoon", ["1.jpg"])
    assert read(tmp_path).categories == ("raccoon",)


def test_a_name_longer_than_any_files_is_an_image_that_is_not_there(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json", ["x" * 5000 + ".jpg"])
    with pytest.raises(ImportFault, match="names 1 image that was not found"):
        pack(read(file))


def test_a_path_longer_than_any_folders_in_a_yaml_is_not_there(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["1.jpg"])
    (tmp_path / "images" / "1.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "data.yaml").write_text(f"path: {'x' * 5000}\ntrain: {'y' * 5000}\nval: images\nnames: [cat]\n")
    assert [image.name for image in read(tmp_path).images] == ["images/1.jpg"]


@pytest.mark.parametrize("text", ["a,b\n\n1.jpg\n", "a,b\n1.jpg\n", "TRAIN,1.jpg\nTRAIN,2.jpg\n", "TRAIN,1.jpg\n\n"])
def test_a_table_whose_lines_have_no_label_has_no_columns(tmp_path: Path, text: str) -> None:
    pictures(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ImportFault, match=r"has no columns|which column names the images"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text", "left_out"),
    [
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": "a cat"}\n', ()),
        (
            "annotations.xml",
            '<annotations><image name="1.jpg"><cuboid label="cat"/></image></annotations>',
            ("left out: 1 shape of the kind cuboid",),
        ),
    ],
)
def test_an_export_without_a_label_is_refused_with_what_is_left_out(
    tmp_path: Path, name: str, text: str, left_out: tuple[str, ...]
) -> None:
    pictures(tmp_path, ["1.jpg"])
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportFault, match="none of its images has a label or a box") as caught:
        read(tmp_path)
    assert caught.value.faults == left_out


@pytest.mark.parametrize("image", [{}, {"image": {"path": "1.jpg"}}])
def test_subsets_of_datumaro_may_have_images_of_the_same_name(tmp_path: Path, image: dict[str, Any]) -> None:
    labels = {"label": {"labels": [{"name": "train"}, {"name": "val"}]}}
    for number, subset in enumerate(("train", "val")):
        pictures(tmp_path / "images" / subset, ["1.jpg"])
        item = {"id": "1", "annotations": [{"type": "label", "label_id": number}], **image}
        written(tmp_path, f"annotations/{subset}.json", json.dumps({"items": [item], "categories": labels}))
    assert marks(pack(read(tmp_path))) == {f"images/{name}/1.jpg": [(name, [])] for name in ("train", "val")}


def test_a_yaml_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    written(tmp_path, "data.yaml", f"names: {'[' * 3000}{']' * 3000}")
    with pytest.raises(ImportFault, match=r"data\.yaml cannot be read as YAML: maximum recursion depth exceeded"):
        read(tmp_path)


@pytest.mark.parametrize("make", [exports.label_studio, exports.yolo, exports.voc, exports.createml])
def test_an_export_may_be_in_a_folder_in_the_one_that_is_named(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "download" / "export").mkdir(parents=True)
    (tmp_path / ".DS_Store").write_bytes(b"")
    make(tmp_path / "download" / "export")
    found, direct = (pack(read(source)) for source in (tmp_path, tmp_path / "download" / "export"))
    assert (found.imported.format, marks(found)) == (direct.imported.format, marks(direct))


def test_annotations_below_the_folders_of_classes_are_told(tmp_path: Path) -> None:
    for job in ("job1", "job2"):
        (tmp_path / job).mkdir()
        exports.cvat(tmp_path / job)
    listed = "job1/annotations.xml (CVAT for images), job2/annotations.xml (CVAT for images)"
    assert f"note: not read, as the folders' names are the labels: {listed}" in told(read(tmp_path))


def test_an_archive_beside_annotations_whose_images_are_missing_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("path,label\n1.jpg,cat\n")
    with pytest.raises(ImagesUnresolved) as caught:
        pack(read(tmp_path))
    assert caught.value.fix == "unpack images.zip if that has the images"


def test_a_file_of_annotations_may_be_in_a_folder_beside_the_images(tmp_path: Path) -> None:
    written(tmp_path, "annotations/labels.csv", "path,label\n1.jpg,cat\n2.jpg,dog\n")
    assert marks(pack(read(tmp_path))) == {"images/1.jpg": [("cat", [])], "images/2.jpg": [("dog", [])]}


@pytest.mark.parametrize(
    ("files", "damaged"),
    [
        ({"train/_annotations.csv": "1.jpg,cat", "test/_annotations.csv": "2.jpg,Käfer"}, "test/_annotations.csv"),
        (
            {"train_labels.csv": "1.jpg,cat", "test_labels.csv": "2.jpg,dog", "val_labels.csv": "2.jpg,Käfer"},
            "val_labels.csv",
        ),
        ({"train_labels.csv": "1.jpg,cat", "test_labels.csv": "2.jpg,Käfer"}, "test_labels.csv"),
    ],
)
def test_a_split_whose_table_cannot_be_read_is_not_left_out(
    tmp_path: Path, files: dict[str, str], damaged: str
) -> None:
    for name, row in files.items():
        written(tmp_path, name, "")
        (tmp_path / name).write_text(f"filename,class\n{row}\n", "latin-1" if name == damaged else "utf-8")
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert f"{damaged} is not in UTF-8" in caught.value.faults[0]


def test_two_files_of_a_split_leave_it_unclear_which_is_meant(tmp_path: Path) -> None:
    for name in ("train/a.csv", "test/a.csv", "test/b.csv"):
        written(tmp_path, name, "filename,class\n1.jpg,cat\n")
    with pytest.raises(ImportFault, match=r"test has several files that could be meant: a\.csv \(CSV\), b\.csv"):
        read(tmp_path)


def test_a_subset_of_datumaro_that_is_damaged_is_not_left_out(tmp_path: Path) -> None:
    for subset in ("train", "val"):
        written(tmp_path, f"annotations/{subset}.json", datumaro(boxes=False))
    (tmp_path / "annotations" / "val.json").write_text("{")
    with pytest.raises(ImportFault, match=r"val\.json cannot be read as JSON"):
        read(tmp_path)


def labelled_by_labelbox(**annotations: Any) -> str:
    projects = {"p": {"labels": [{"annotations": annotations}]}}
    row = {"id": "c1", "external_id": "1.jpg", "row_data": "https://storage/c1"}
    return json.dumps({"data_row": row, "media_attributes": {"width": 80, "height": 60}, "projects": projects}) + "\n"


def test_all_answers_of_a_checklist_are_labels_and_free_text_is_none(tmp_path: Path) -> None:
    checklist = {"name": "what", "checklist_answers": [{"name": "cat"}, {"name": "dog"}]}
    text = {"name": "remarks", "text_answer": {"content": "blurred"}}
    written(tmp_path, "a.ndjson", labelled_by_labelbox(classifications=[checklist, text]))
    imported = read(tmp_path)
    assert imported.images[0].labels == ("cat", "dog")
    assert imported.notes == ("left out: 1 answer in free text",)


def test_a_polygon_of_labelbox_becomes_a_box_and_masks_are_left_out(tmp_path: Path) -> None:
    polygon = {"name": "cat", "polygon": [{"x": x, "y": y} for x, y in ((8, 6), (48, 6), (20, 36))]}
    mask = {"name": "cat", "mask": {"url": "https://storage/m"}}
    written(tmp_path, "a.ndjson", labelled_by_labelbox(objects=[polygon, mask]))
    imported = read(tmp_path)
    assert marks(pack(imported)) == {"images/1.jpg": [("cat", PIXELS)]}
    assert "left out: 1 mask or point" in imported.notes


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        ("segments", [0.1, 0.1, 0.6, 0.1, 0.3, 0.6]),
        ("obb", [0.35, 0.1, 0.6, 0.35, 0.35, 0.6, 0.1, 0.35]),
        ("pose", [0.35, 0.35, 0.5, 0.5, 0.2, 0.2, 2]),
    ],
)
def test_what_ultralytics_draws_becomes_boxes(tmp_path: Path, kind: str, drawn: list[float]) -> None:
    head = {"type": "dataset", "task": kind, "class_names": {"0": "cat"}}
    image = {"type": "image", "file": "1.jpg", "width": 80, "height": 60, "annotations": {kind: [[0, *drawn]]}}
    written(tmp_path, "a.ndjson", f"{json.dumps(head)}\n{json.dumps(image)}\n")
    assert marks(pack(read(tmp_path))) == {"images/1.jpg": [("cat", SHARES)]}
