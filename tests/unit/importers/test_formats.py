"""Every form of labelled images is recognised, and becomes the COCO file that the service reads."""

from __future__ import annotations

import json
from math import pi
from pathlib import Path
from typing import Any

import pytest

from sightline.importers.model import BoxForm, Format, Imported, ImportFault
from sightline.importers.package import Package, pack
from sightline.importers.read import read
from sightline.importers.summary import summary
from tests.unit.importers import exports


def content(package: Package) -> dict[str, Any]:
    """The only COCO file of a package."""
    (file,) = package.annotation_files()
    return json.loads(file.content if file.content is not None else (file.file or Path()).read_bytes())


def marks(package: Package) -> dict[str, list[tuple[str, list[float]]]]:
    """The category and rounded box of each annotation, by image."""
    coco = content(package)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found: dict[str, list[tuple[str, list[float]]]] = {image["file_name"]: [] for image in coco["images"]}
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    for mark in coco["annotations"]:
        box = [round(value, 4) for value in mark.get("bbox", [])]
        found[files[mark["image_id"]]].append((names[mark["category_id"]], box))
    return found


def told(imported: Imported) -> str:
    return "\n".join(summary(imported))


def test_a_folder_per_class(tmp_path: Path) -> None:
    exports.folder_per_class(tmp_path)
    exports.picture(tmp_path / "loose.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "._cat--0.jpg").write_bytes(b"what macOS leaves behind")
    imported = read(tmp_path)
    assert imported.format is Format.FOLDERS
    assert marks(pack(imported)) == {
        f"{name}/{name}--{number}.jpg": [(name, [])] for name in ("cat", "dog") for number in range(3)
    }
    assert "left out: 1 image in no class's folder" in told(imported)


def test_folders_per_class_below_splits(tmp_path: Path) -> None:
    exports.folder_per_class(tmp_path / "pets", ("train", "test"))
    imported = read(tmp_path)
    assert imported.splits == {"train": 6, "test": 6}
    assert marks(pack(imported.only(["test"]))).keys() == {
        f"test/{name}/{name}-test-{number}.jpg" for name in ("cat", "dog") for number in range(3)
    }
    with pytest.raises(ImportFault, match="no split val; it has train, test"):
        imported.only(["val"])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    exports.pictures(tmp_path / "train", ["1.jpg"])
    exports.pictures(tmp_path / "bus", ["1.jpg"])
    assert read(tmp_path).categories == ("bus", "train")


@pytest.mark.parametrize("images_first", [True, False])
def test_yolo_with_a_yaml(tmp_path: Path, images_first: bool) -> None:
    imported = read(exports.yolo(tmp_path, images_first=images_first))
    assert (imported.format, imported.splits) == (Format.YOLO, {"train": 3, "val": 3})
    found = marks(pack(imported))
    first = "images/train/train1.jpg" if images_first else "train/images/train1.jpg"
    assert found[first] == [("cat", [0.375, 0.25, 0.25, 0.5]), ("dog", [0.0, 0.0, 0.2, 0.2])]
    assert [category["name"] for category in content(pack(imported))["categories"]] == ["cat", "dog"]
    assert "nothing has the category cow: left out" in told(imported)


def test_yolos_outlines_and_rotated_boxes_become_boxes(tmp_path: Path) -> None:
    exports.picture(tmp_path / "images" / "1.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text(
        "0 0.1 0.1 0.5 0.1 0.3 0.4\n1 0.2 0.1 0.4 0.2 0.3 0.4 0.1 0.3\n0 0.5 0.5 0.2 0.2 0.93\n"
    )
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    imported = read(tmp_path)
    assert marks(pack(imported)) == {
        "images/1.jpg": [
            ("cat", [0.1, 0.1, 0.4, 0.3]),
            ("dog", [0.1, 0.1, 0.3, 0.3]),
            ("cat", [0.4, 0.4, 0.2, 0.2]),
        ]
    }
    assert "2 outlines" in told(imported)


def test_yolos_split_may_be_a_list_of_files(tmp_path: Path) -> None:
    exports.yolo(tmp_path)
    (tmp_path / "train.txt").write_text("./images/train/train0.jpg\n./images/train/train2.jpg\n")
    (tmp_path / "pets.yaml").write_text("train: train.txt\nnames:\n  0: cat\n  1: dog\n")
    imported = read(tmp_path / "pets.yaml")
    assert [image.name for image in imported.images] == ["images/train/train0.jpg", "images/train/train2.jpg"]


def test_every_faulty_line_of_yolo_is_named(tmp_path: Path) -> None:
    exports.yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "train1.txt"
    label.write_text("9 0.5 0.5 0.1 0.1\n0 0.5 0.5\n0 0.5 0,5 0.1 0.1\n")
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert [fault.partition(", ")[2] for fault in caught.value.faults] == [
        "line 1: class 9 is not in the list of 3 classes",
        "line 2: 2 numbers follow the class, where a box has 4 and an outline 6 or more",
        "line 3: '0,5' is not a number",
    ]


def test_pascal_voc(tmp_path: Path) -> None:
    imported = read(exports.voc(tmp_path))
    assert (imported.format, imported.splits) == (Format.VOC, {"train": 2, "val": 1})
    assert marks(pack(imported))["JPEGImages/000001.jpg"] == [
        ("cat", [8.0, 6.0, 40.0, 30.0]),
        ("dog", [50.5, 6.0, 20.0, 30.0]),
    ]
    assert content(pack(imported))["images"][0] == {
        "id": 1, "file_name": "JPEGImages/000000.jpg", "width": 80.0, "height": 60.0,
    }  # fmt: skip
    assert "used like the others: 3 objects marked difficult" in told(imported)


def test_rotated_boxes_of_rolabelimg_become_the_boxes_around_them(tmp_path: Path) -> None:
    exports.picture(tmp_path / "0.jpg", 0)
    half_pi, quarter = 1.5707963, 0.7853982
    boxes = "".join(
        f"<object><type>robndbox</type><name>cat</name><robndbox><cx>28</cx><cy>21</cy><w>{w}</w><h>{h}</h>"
        f"<angle>{angle}</angle></robndbox></object>"
        for w, h, angle in ((40, 30, 0), (30, 40, half_pi), (20, 20, quarter))
    )
    (tmp_path / "0.xml").write_text(f"<annotation><filename>0</filename>{boxes}</annotation>")
    imported = read(tmp_path)
    around = [[round(side, 2) for side in box[1:]] for box in imported.images[0].boxes]
    assert around == [[8, 6, 40, 30], [8, 6, 40, 30], [13.86, 6.86, 28.28, 28.28]]
    assert "turned into upright boxes: 3 outlines" in told(imported)


def test_pascal_voc_next_to_its_images_under_another_machines_path(tmp_path: Path) -> None:
    exports.voc(tmp_path)
    for file in (tmp_path / "Annotations").iterdir():
        text = file.read_text().replace(
            "<filename>", "<path>C:\\Users\\me\\set\\JPEGImages\\wrong.jpg</path><filename>re-"
        )
        file.write_text(text)
        file.rename(tmp_path / "JPEGImages" / file.name)
    assert marks(pack(read(tmp_path / "JPEGImages"))).keys() == {f"{number:06d}.jpg" for number in range(3)}


@pytest.mark.parametrize("regions", [True, False])
def test_a_custom_vision_project(tmp_path: Path, regions: bool) -> None:
    imported = read(exports.custom_vision(tmp_path, regions=regions))
    assert (imported.format, imported.detection) == (Format.CUSTOM_VISION, regions)
    box = [0.1, 0.1, 0.5, 0.5] if regions else []
    assert list(marks(pack(imported)).values()) == [[("dog", box)], [("cat", box)], [("cat", box)]]


def test_label_studio(tmp_path: Path) -> None:
    imported = read(exports.label_studio(tmp_path))
    assert imported.format is Format.LABEL_STUDIO
    assert marks(pack(imported)) == {
        "images/abcd1230-photo 0.jpg": [],
        "images/abcd1231-photo 1.jpg": [("Cat", [0.1, 0.1, 0.5, 0.5])],
        "images/abcd1232-photo 2.jpg": [("Cat", [0.1, 0.1, 0.5, 0.5])],
    }


def test_label_studios_rotated_boxes_and_outlines_become_boxes(tmp_path: Path) -> None:
    exports.label_studio(tmp_path)
    file = tmp_path / "project-1.json"
    tasks = json.loads(file.read_text())
    turned = {"x": 50, "y": 50, "width": 25, "height": 20, "rotation": 90, "rectanglelabels": ["Cat"]}
    outline = {"points": [[10, 10], [30, 10], [20, 40]], "closed": True, "polygonlabels": ["Dog"]}
    sides = {"original_width": 80, "original_height": 60}
    tasks[0]["annotations"][0]["result"] = [{"value": turned, **sides}, {"value": outline, **sides}]
    file.write_text(json.dumps(tasks))
    # 25 % of 80 is 20 px, which is 33.3 % of 60; 20 % of 60 is 12 px, which is 15 % of 80
    assert marks(pack(read(tmp_path)))["images/abcd1230-photo 0.jpg"] == [
        ("Cat", [0.35, 0.5, 0.15, 0.3333]),
        ("Dog", [0.1, 0.1, 0.2, 0.3]),
    ]


@pytest.mark.parametrize("choice", ["cat", {"choices": ["cat"]}])
def test_label_studios_short_form(tmp_path: Path, choice: object) -> None:
    exports.picture(tmp_path / "1.jpg")
    task = {"id": 1, "image": "/data/upload/3/0123abcd-1.jpg", "choice": choice, "annotator": 1, "lead_time": 2.5}
    (tmp_path / "min.json").write_text(json.dumps([task]))
    assert marks(pack(read(tmp_path))) == {"1.jpg": [("cat", [])]}


def label_studio_of(folder: Path, *results: dict[str, Any]) -> Path:
    """The JSON of a project with one image, and what was entered for it."""
    exports.picture(folder / "1.jpg")
    task = {"id": 1, "data": {"image": "1.jpg"}, "annotations": [{"result": list(results)}]}
    (folder / "project.json").write_text(json.dumps([task]))
    return folder


AREA = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0}


@pytest.mark.parametrize(
    ("area", "tool"),
    [
        (AREA, "rectangle"),
        ({"points": [[10, 10], [60, 10], [60, 60]]}, "polygon"),
        ({"x": 35, "y": 35, "radiusX": 25, "radiusY": 25}, "ellipse"),
    ],
)
def test_label_studios_shapes_with_labels_of_their_own(tmp_path: Path, area: dict[str, Any], tool: str) -> None:
    shape, label = {"type": tool, "value": area}, {"type": "labels", "value": {**area, "labels": ["cat"]}}
    imported = read(label_studio_of(tmp_path, shape, label))
    assert marks(pack(imported)) == {"1.jpg": [("cat", [0.1, 0.1, 0.5, 0.5])]}
    assert "left out" not in told(imported), "the shape and its label are two results"


@pytest.mark.parametrize("labels", ["cat", ["cat"]])
def test_a_label_of_label_studio_may_stand_without_its_list(tmp_path: Path, labels: Any) -> None:
    assert read(label_studio_of(tmp_path, {"value": {"choices": labels}})).categories == ("cat",)
    assert read(label_studio_of(tmp_path, {"value": {**AREA, "rectanglelabels": labels}})).categories == ("cat",)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({**AREA, "rectanglelabels": True}, "a shape (rectanglelabels) lacks a coordinate or a label"),
        ({**AREA, "labels": {}}, "a shape (labels) lacks a coordinate or a label"),
        ({"points": 5, "polygonlabels": ["cat"]}, "a shape (polygonlabels) lacks a coordinate or a label"),
        ({"points": [[1, 2], [None, 3]], "labels": ["cat"]}, "a shape (labels) lacks a coordinate or a label"),
        ({"choices": True}, "its choice is no text"),
    ],
)
def test_what_label_studio_says_of_a_task_is_named_if_it_cannot_be_read(
    tmp_path: Path, value: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ImportFault) as caught:
        read(label_studio_of(tmp_path, {"value": value}))
    assert caught.value.faults == (f"task 1, 1.jpg: {fault}",)


def test_what_label_studio_has_besides_choices_and_shapes_is_said_to_be_left_out(tmp_path: Path) -> None:
    taxonomy = {"type": "taxonomy", "value": {"taxonomy": [["animal", "cat"]]}}
    bare, dot = {"type": "rectangle", "value": AREA}, {"type": "{0}", "value": {"x": 1, "y": 1, "labels": ["cat"]}}
    left_out = {
        "left out: 1 result of the kind taxonomy",
        "left out: 1 shape without a label",
        "left out: 1 result of the kind {0}",
    }
    imported = read(label_studio_of(tmp_path, taxonomy, bare, dot, {"type": "choices", "value": {"choices": ["cat"]}}))
    assert set(imported.notes) == left_out
    with pytest.raises(ImportFault, match="nothing that was entered is a choice or a shape with a label") as caught:
        read(label_studio_of(tmp_path, taxonomy, bare, dot))
    assert set(caught.value.faults) == left_out


@pytest.mark.parametrize(
    ("fields", "found", "left_out"),
    [
        ({"camera": "north", "label": "cat"}, "cat", "camera"),
        ({"camera": "north", "animal": {"choices": ["cat"]}}, "cat", "camera"),
        ({"thumbnail": "https://host/1", "copy": "a/1.jpg", "animal": "cat"}, "cat", ""),
        ({"animal": ["cat"], "weight": 5}, "cat", ""),
    ],
)
def test_label_studios_short_form_has_data_besides_the_class(
    tmp_path: Path, fields: dict[str, Any], found: str, left_out: str
) -> None:
    exports.picture(tmp_path / "1.jpg")
    task = {"id": 1, "image": "/data/local-files/?d=1.jpg", **fields, "annotator": 1, "lead_time": 2.5}
    (tmp_path / "min.json").write_text(json.dumps([task]))
    imported = read(tmp_path)
    assert marks(pack(imported)) == {"1.jpg": [(found, [])]}
    assert (f"; left out: {left_out}" in told(imported)) == bool(left_out)


def test_label_studios_short_form_is_refused_if_several_fields_may_be_the_class(tmp_path: Path) -> None:
    task = {"id": 1, "image": "1.jpg", "camera": "north", "animal": "cat", "annotator": 1, "lead_time": 2.5}
    (tmp_path / "min.json").write_text(json.dumps([task]))
    with pytest.raises(ImportFault, match="not clear which field is the class: camera, animal") as caught:
        read(tmp_path / "min.json")
    assert "as JSON" in caught.value.fix


def test_cvat_for_images(tmp_path: Path) -> None:
    imported = read(exports.cvat(tmp_path))
    assert imported.format is Format.CVAT
    found = marks(pack(imported))
    assert found["images/1.jpg"] == [("cat", [8.0, 6.0, 40.0, 30.0]), ("dog", [10.0, 10.0, 20.0, 30.0])]
    assert "nothing has the category cow: left out" in told(imported)


BOXES = [("cat", [8.0, 6.0, 40.0, 30.0]), ("dog", [10.0, 10.0, 20.0, 30.0])]


def test_labelme(tmp_path: Path) -> None:
    imported = read(exports.labelme(tmp_path))
    assert imported.format is Format.LABELME
    assert marks(pack(imported)) == {
        "images/0.jpg": [],
        **{f"images/{number}.jpg": [*BOXES, ("dog", [35.0, 25.0, 10.0, 10.0])] for number in (1, 2)},
    }
    assert "left out: 2 shapes of the kind point" in told(imported)
    assert "turned into upright boxes: 4 outlines" in told(imported)


def test_one_file_of_labelme_with_flags(tmp_path: Path) -> None:
    exports.picture(tmp_path / "a.jpg")
    content = {"shapes": [], "flags": {"cat": True, "dog": False}, "imagePath": "a.jpg", "imageData": None}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert marks(pack(read(tmp_path / "a.json"))) == {"a.jpg": [("cat", [])]}


@pytest.mark.parametrize("project", [False, True])
def test_via(tmp_path: Path, project: bool) -> None:
    imported = read(exports.via(tmp_path, project=project))
    assert imported.format is Format.VIA
    found = [*BOXES, ("dog", [35.0, 20.0, 10.0, 20.0])]
    assert marks(pack(imported)) == {"0.jpg": [], "1.jpg": found, "2.jpg": found}


def test_via_of_version_1_and_its_attributes_of_whole_images(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["a.jpg", "b.jpg"])
    listed = {
        f"{name}.jpg9": {"filename": f"{name}.jpg", "size": 9, "regions": {}, "file_attributes": {"kind": kind}}
        for name, kind in (("a", "cat"), ("b", "dog"))
    }
    (tmp_path / "via.json").write_text(json.dumps(listed))
    assert marks(pack(read(tmp_path))) == {"a.jpg": [("cat", [])], "b.jpg": [("dog", [])]}


def test_every_region_of_via_without_a_class_is_named(tmp_path: Path) -> None:
    region = {
        "shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 1},
        "region_attributes": {"a": "x", "b": "y"},
    }
    labelled = {**region, "region_attributes": {"label": "cat"}}
    listed = {"1": {"filename": "1.jpg", "regions": {"0": region, "1": labelled}}}
    (tmp_path / "via.json").write_text(json.dumps(listed))
    with pytest.raises(ImportFault) as caught:
        read(tmp_path / "via.json")
    assert list(caught.value.faults) == [
        "1.jpg, region 1: it is not clear which of its attributes is its class",
        "1.jpg, region 2 (cat): a rect lacks a number",
    ]
    assert "called label or class" in caught.value.fix


def test_supervisely(tmp_path: Path) -> None:
    imported = read(exports.supervisely(tmp_path))
    assert imported.format is Format.SUPERVISELY
    assert marks(pack(imported)) == {"ds0/img/0.jpg": [], "ds0/img/1.jpg": BOXES, "ds0/img/2.jpg": BOXES}
    assert "left out: 2 objects of the kind bitmap" in told(imported)


def test_supervisely_tags(tmp_path: Path) -> None:
    found = marks(pack(read(exports.supervisely(tmp_path, tags=True) / "ds0")))
    assert found == {"img/0.jpg": [("dog", [])], "img/1.jpg": [("cat", [])], "img/2.jpg": [("cat", [])]}


def test_createml(tmp_path: Path) -> None:
    imported = read(exports.createml(tmp_path))
    assert imported.format is Format.CREATEML
    assert marks(pack(imported)) == {"0.jpg": [], "1.jpg": BOXES[:1], "2.jpg": BOXES[:1]}


@pytest.mark.parametrize("form", [None, Format.CREATEML])
def test_one_file_per_split_as_roboflow_exports_createml(tmp_path: Path, form: Format | None) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        exports.createml(tmp_path / split)
    imported = read(tmp_path, form=form)
    assert (imported.format, imported.splits) == (Format.CREATEML, {"train": 3, "val": 3})
    assert marks(pack(imported))["valid/2.jpg"] == BOXES[:1]


def test_one_csv_per_split_as_roboflow_exports_it_for_tensorflow(tmp_path: Path) -> None:
    for split in ("train", "test"):
        exports.pictures(tmp_path / split, ["1.jpg"])
        text = "filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,80,60,cat,8,6,48,36\n"
        (tmp_path / split / "_annotations.csv").write_text(text)
    imported = read(tmp_path)
    assert (imported.format, imported.splits) == (Format.CSV, {"train": 1, "test": 1})
    assert marks(pack(imported)) == {f"{split}/1.jpg": BOXES[:1] for split in ("train", "test")}


def test_each_csv_of_several_splits_has_columns_of_its_own(tmp_path: Path) -> None:
    tables = {"train": "x1,y1,x2,y2\n1.jpg,cat,8,6,48,36", "val": "cx,cy,w,h\n1.jpg,cat,28,21,40,30"}
    for split, table in tables.items():
        exports.pictures(tmp_path / split, ["1.jpg"])
        (tmp_path / split / "labels.csv").write_text(f"path,label,{table}\n")
    assert marks(pack(read(tmp_path))) == {f"{split}/1.jpg": BOXES[:1] for split in tables}


CSVS = {
    "plain": ("1.jpg,cat\n2.jpg,dog\n", {"1.jpg": [("cat", [])], "2.jpg": [("dog", [])]}),
    "header": ("label;path\ncat;1.jpg\ndog;2.jpg\n", {"1.jpg": [("cat", [])], "2.jpg": [("dog", [])]}),
    "without extension": ("image_id,label\n1,0\n2,1\n", {"1.jpg": [("0", [])], "2.jpg": [("1", [])]}),
    "corners": (
        "1.jpg,cat,8,6,48,36\n1.jpg,dog,1,2,11,12\n2.jpg,,,,,\n",
        {"1.jpg": [("cat", [8, 6, 40, 30]), ("dog", [1, 2, 10, 10])], "2.jpg": []},
    ),
    "corners before the label": ("1.jpg,8,6,48,36,cat\n", {"1.jpg": [("cat", [8, 6, 40, 30])]}),
    "TensorFlow's header": (
        "filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,80,60,cat,8,6,48,36\n",
        {"1.jpg": [("cat", [8, 6, 40, 30])]},
    ),
    "sides": ("path,label,x,y,width,height\n1.jpg,cat,8,6,40,30\n", {"1.jpg": [("cat", [8, 6, 40, 30])]}),
    "TensorFlow's columns without header": ("1.jpg,80,60,cat,8,6,48,36\n", {"1.jpg": [("cat", [8, 6, 40, 30])]}),
    "Make Sense's label, which is no split": ("train,8,6,40,30,1.jpg,80,60\n", {"1.jpg": [("train", [8, 6, 40, 30])]}),
    "an index before a box": ("0,1.jpg,cat,8,6,48,36\n", {"1.jpg": [("cat", [8, 6, 40, 30])]}),
}
BOX_COLUMNS = {
    "x_center,y_center,width,height": "28,21,40,30",
    "cx,cy,w,h": "28,21,40,30",
    "xmin,ymin,width,height": "8,6,40,30",
    "left,top,width,height": "8,6,40,30",
    "width,height,bbox_x,bbox_y,bbox_width,bbox_height": "80,60,8,6,40,30",
    "x0,y0,x1,y1": "8,6,48,36",
    "x_1,y_1,x_2,y_2": "8,6,48,36",
    "BoxXMin,BoxXMax,BoxYMin,BoxYMax": "8,48,6,36",
    "bbox_left,bbox_top,bbox_right,bbox_bottom": "8,6,48,36",
    "x1,y1,x2,y2,x3,y3,x4,y4": "8,6,48,6,48,36,8,36",
}
TAGS = {
    "an index": "0,1.jpg,cat\n1,2.jpg,dog\n",
    "an index without a name": ",photo,species\n0,1.jpg,cat\n1,2.jpg,dog\n",
    "an id": "id,photo,label\n2,1.jpg,cat\n1,2.jpg,dog\n",
    "sides of the image": "photo,width,height,species\n1.jpg,80,60,cat\n2.jpg,80,60,dog\n",
    "splits": "1.jpg,train,cat\n2.jpg,val,dog\n",
    "flags": "photo,cat,dog,cow,hen,pig\n1.jpg,1,0,0,0,0\n2.jpg,0,1,0,0,0\n",
    "flags of pandas": "photo,cat,dog\n1.jpg,True,False\n2.jpg,False,True\n",
    "line ends of the first Macs": "path,label\r1.jpg,cat\r2.jpg,dog\r",
    "Excel's line for the separator": "sep=;\npath;label\n1.jpg;cat\n2.jpg;dog\n",
}


@pytest.mark.parametrize("name", CSVS)
def test_csv(tmp_path: Path, name: str) -> None:
    exports.pictures(tmp_path, ["1.jpg", "2.jpg"])
    text, expected = CSVS[name]
    (tmp_path / "labels.csv").write_text("\ufeff" + text)
    assert marks(pack(read(tmp_path))) == expected


@pytest.mark.parametrize("columns", BOX_COLUMNS)
def test_the_columns_of_boxes_in_a_csv_have_many_names(tmp_path: Path, columns: str) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    (tmp_path / "labels.csv").write_text(f"path,label,{columns}\n1.jpg,cat,{BOX_COLUMNS[columns]}\n")
    assert marks(pack(read(tmp_path))) == {"1.jpg": BOXES[:1]}


SIDES = {
    "TensorFlow's": ("filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,80,60,cat,8,6,48,36\n", (80, 60)),
    "without header": ("1.jpg,80,60,cat,8,6,48,36\n", (80, 60)),
    "of both": ("path,label,image_width,image_height,x,y,width,height\n1.jpg,cat,80,60,8,6,40,30\n", (80, 60)),
    "of the box": ("path,label,x1,y1,x2,y2,width,height\n1.jpg,cat,8,6,48,36,40,30\n", (None, None)),
    "several": (
        "path,label,x1,y1,x2,y2,width,height\n1.jpg,cat,8,6,48,36,80,60\n1.jpg,cat,8,6,48,36,8,6\n",
        (None, None),
    ),
}


@pytest.mark.parametrize("name", SIDES)
def test_a_csv_declares_the_sides_of_images_unless_they_are_those_of_boxes(tmp_path: Path, name: str) -> None:
    text, sides = SIDES[name]
    (tmp_path / "labels.csv").write_text(text)
    imported = read(tmp_path / "labels.csv")
    assert [(image.width, image.height) for image in imported.images] == [sides]
    assert ("width and height are those of the boxes" in told(imported)) is (None in sides)


@pytest.mark.parametrize("columns", ["x,y,radius", "width,height", "bx,by,bw,bh"])
def test_columns_of_a_csv_that_make_no_box_are_told(tmp_path: Path, columns: str) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    (tmp_path / "labels.csv").write_text(
        f"path,label,{columns}\n1.jpg,cat,{','.join('1' for _ in columns.split(','))}\n"
    )
    imported = read(tmp_path)
    assert not imported.detection
    assert f"not used: {columns.replace(',', ', ')}" in told(imported)


@pytest.mark.parametrize("name", TAGS)
def test_the_label_in_a_csv_is_not_what_stands_besides(tmp_path: Path, name: str) -> None:
    exports.pictures(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "labels.csv").write_text(TAGS[name])
    assert marks(pack(read(tmp_path))) == {"1.jpg": [("cat", [])], "2.jpg": [("dog", [])]}


def test_a_number_is_the_label_in_a_csv_only_after_the_image(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "labels.csv").write_text("7,1.jpg,0\n8,2.jpg,1\n")
    assert marks(pack(read(tmp_path))) == {"1.jpg": [("0", [])], "2.jpg": [("1", [])]}


def test_what_the_header_of_a_csv_does_not_say_is_told(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    (tmp_path / "labels.csv").write_text("id,photo,species,note\n1,1.jpg,cat,old\n")
    said = told(read(tmp_path))
    assert "recognised by what they hold: photo as path, species as label" in said
    assert "not used: id, note" in said


def test_a_column_beyond_the_header_is_told_by_its_number(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "labels.csv").write_text("label,other\ncat,1,1.jpg\ndog,2,2.jpg\n")
    assert "recognised by what they hold: column 3 as path" in told(read(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_id,photo,label\n2,1.jpg,cat\n", "the images are named by image_id, or by photo"),
        ("path,label,x1,y1,x2\n1.jpg,cat,8,6,48\n", "has columns of boxes, but none for y2"),
        ("path,label,left,top,width\n1.jpg,cat,8,6,40\n", "has columns of boxes, but none for h"),
        ("image,name,species\n1.jpg,1.jpg,cat\n", "has no column for the label: image, name, species"),
    ],
)
def test_a_header_of_a_csv_that_is_not_clear_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ImportFault, match=says) as caught:
        read(tmp_path / "labels.csv")
    assert "call" in caught.value.fix


def test_every_faulty_line_of_csv_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("1.jpg,cat,8,6,48,36\n1.jpg,,8,6,48,36\n2.jpg,dog,8,x,48,36\n,cat,1,1,2,2\n")
    with pytest.raises(ImportFault) as caught:
        read(tmp_path / "labels.csv")
    assert list(caught.value.faults) == [
        "line 2, 1.jpg: its box has no label",
        "line 3, 2.jpg: y1 is 'x', not a number",
        "line 4: it names no image",
    ]


def test_csv_whose_numbers_may_be_sides_is_refused_until_the_option_says_what_they_are(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    (tmp_path / "labels.csv").write_text("1.jpg,cat,50,40,20,10\n1.jpg,cat,10,5,30,40\n")
    imported = read(tmp_path)
    with pytest.raises(ImportFault, match="1 of 2 boxes") as caught:
        pack(imported)
    assert "--boxes xywh" in caught.value.fix
    assert marks(pack(imported, boxes=BoxForm.XYWH)) == {"1.jpg": [("cat", [50, 40, 20, 10]), ("cat", [10, 5, 30, 40])]}
    assert marks(pack(imported, boxes=BoxForm.XYXY)) == {"1.jpg": [("cat", [20, 10, 30, 30]), ("cat", [10, 5, 20, 35])]}


@pytest.mark.parametrize(
    ("boxes", "bbox"),
    [(BoxForm.XYXY, [8, 6, 48, 36]), (BoxForm.CXCYWH, [28, 21, 40, 30]), (None, [8.0, 6.0, 40.0, 30.0])],
)
def test_boxes_in_another_convention_are_converted(tmp_path: Path, boxes: BoxForm | None, bbox: list[float]) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    mark = {"id": 5, "image_id": 1, "category_id": 1, "bbox": bbox, "iscrowd": 0}
    file = exports.coco_file(tmp_path / "set.json", ["1.jpg"], annotations=[mark], info={"year": 2026})
    coco = content(pack(read(file), boxes=boxes))
    assert coco["annotations"] == [{**mark, "bbox": [8.0, 6.0, 40.0, 30.0]}]
    assert coco["info"] == {"year": 2026}


def test_what_the_numbers_of_a_box_are_is_not_asked_where_it_is_known(tmp_path: Path) -> None:
    with pytest.raises(ImportFault, match="leave out --boxes"):
        pack(read(exports.voc(tmp_path)), boxes=BoxForm.XYXY)


def test_a_coco_file_whose_names_are_paths_is_uploaded_as_it_is(tmp_path: Path) -> None:
    exports.pictures(tmp_path / "images", ["1.jpg"])
    file = exports.coco_file(tmp_path / "set.json", ["images/1.jpg"])
    (uploaded,) = pack(read(file)).annotation_files()
    assert (uploaded.path, uploaded.file, uploaded.content) == ("set.json", file, None)


def test_one_coco_file_per_split_as_roboflow_exports_them(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        exports.pictures(tmp_path / split, ["1.jpg", "2.jpg"])
        exports.coco_file(tmp_path / split / "_annotations.coco.json", ["1.jpg", "2.jpg"])
    imported = read(tmp_path)
    assert imported.splits == {"train": 2, "val": 2, "test": 2}
    package = pack(imported)
    files = {file.path: json.loads(file.content or b"") for file in package.annotation_files()}
    assert files.keys() == {f"{split}-_annotations.coco.json" for split in ("train", "val", "test")}
    assert [image["file_name"] for image in files["val-_annotations.coco.json"]["images"]] == [
        "valid/1.jpg",
        "valid/2.jpg",
    ]
    (only,) = pack(imported.only(["train"])).annotation_files()
    assert only.path == "_annotations.coco.json"


def test_coco_files_in_a_folder_of_annotations(tmp_path: Path) -> None:
    exports.pictures(tmp_path / "val2017", ["1.jpg", "2.jpg"])
    file = exports.coco_file(tmp_path / "annotations" / "instances_val2017.json", ["1.jpg", "2.jpg"])
    exports.coco_file(tmp_path / "annotations" / "captions_val2017.json", ["1.jpg", "2.jpg"])
    for source in (tmp_path, file):
        assert marks(pack(read(source))).keys() == {"val2017/1.jpg", "val2017/2.jpg"}


def test_azures_urls_stand_for_files_in_a_folder(tmp_path: Path) -> None:
    exports.pictures(tmp_path / "copied", ["a/1.jpg", "b/1.jpg"])
    urls = [f"https://account.blob.core.windows.net/photos/{name}/1.jpg?sv=1&sig=2" for name in "ab"]
    images = [{"id": number, "absolute_url": url, "width": 80, "height": 60} for number, url in enumerate(urls, 1)]
    marks_ = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.5, 0.5]}]
    file = exports.coco_file(tmp_path / "set.json", [], images=images, annotations=marks_)
    package = pack(read(file), url_prefixes={"https://account.blob.core.windows.net/photos/": tmp_path / "copied"})
    assert [image["file_name"] for image in content(package)["images"]] == ["copied/a/1.jpg", "copied/b/1.jpg"]
    assert content(package)["annotations"] == marks_


def test_a_missing_list_of_annotations_is_said(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    file = tmp_path / "image_info_test.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "cat"}]}))
    assert "has no `annotations`" in told(read(tmp_path))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "it is empty"),
        ({"1.jpg": b"", "2.jpg": b""}, "2 images without annotations, in no folders"),
        ({"a.parquet": b""}, ".parquet"),
        (
            {"a.json": b'{"images": [], "annotations": []}', "b.json": b'{"images": [], "annotations": []}'},
            "2 COCO files",
        ),
        ({"a.csv": b"1.jpg,cat\n", "b.csv": b"1.jpg,cat\n"}, "a.csv (CSV), b.csv (CSV)"),
    ],
)
def test_a_folder_that_is_not_recognised_says_what_it_has(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert says in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", "path,label\n1.jpg,Kätzchen\n".encode("latin-1"), "a.csv is not in UTF-8 (byte 18)"),
        ("a.csv", b"path,cat,dog\n1.jpg,0.9,0.1\n", "a.csv has no column for the label: path, cat, dog"),
        ("a.jsonl", b'[{"file_name": "1.jpg"},', "a.jsonl, line 1 cannot be read as JSON"),
        ("a.jsonl", b'{"name": "1.jpg"}', "a.jsonl: 1 line cannot be read: line 1: it names no image"),
        ("a.json", b'{"images": [', "a.json cannot be read as JSON"),
        ("a.xml", b"<annotation>", "a.xml cannot be read as XML"),
    ],
)
def test_a_folder_that_is_not_recognised_says_why_a_file_cannot_be_read(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    exports.pictures(tmp_path, ["1.jpg"])
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImportFault) as caught:
        read(tmp_path)
    assert says in "\n".join((caught.value.message, *caught.value.faults))


NAMES_ONE = {
    "labels.csv": "path,label\nphotos/1.jpg,cat\n",
    "labels.jsonl": '{"file_name": "photos/1.jpg", "label": "cat"}\n',
    "photos/1.json": '{"shapes": [], "imagePath": "1.jpg", "flags": {"cat": true}}',
    "photos/1.xml": "<annotation><filename>1.jpg</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
    "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>",
    "coco.json": '{"images": [{"id": 1, "file_name": "photos/1.jpg"}], "annotations": []}',
}


@pytest.mark.parametrize("name", NAMES_ONE)
def test_images_beside_the_others_that_the_annotations_do_not_name_are_known(tmp_path: Path, name: str) -> None:
    exports.pictures(tmp_path, ["photos/1.jpg", "photos/2.jpg", "photos/3.PNG", "photos/.4.jpg", "masks/1.png"])
    (tmp_path / name).write_text(NAMES_ONE[name])
    assert pack(read(tmp_path)).unnamed == ["photos/2.jpg", "photos/3.PNG"]


def test_images_of_splits_that_were_not_chosen_do_not_count_as_unnamed(tmp_path: Path) -> None:
    exports.pictures(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "labels.csv").write_text("path,label,split\n1.jpg,cat,train\n2.jpg,dog,test\n")
    assert pack(read(tmp_path).only(["train"])).unnamed == []


def test_a_turned_ellipse_has_the_box_around_it(tmp_path: Path) -> None:
    shape = {"name": "ellipse", "cx": 40, "cy": 30, "rx": 20, "ry": 5, "theta": pi / 2}
    region = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
    ellipse = '<ellipse label="cat" cx="40" cy="30" rx="20" ry="5" rotation="90"/>'
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 100 / 12, "rotation": 90, "ellipselabels": ["cat"]}
    sides = {"original_width": 80, "original_height": 60}
    for name, text in {
        "via": json.dumps({"1.jpg": {"filename": "1.jpg", "regions": [region], "file_attributes": {}}}),
        "cvat": f'<annotations><image name="1.jpg" width="80" height="60">{ellipse}</image></annotations>',
    }.items():
        exports.picture(tmp_path / name / "1.jpg")
        (tmp_path / name / ("a.xml" if name == "cvat" else "a.json")).write_text(text)
    label_studio_of(tmp_path / "label-studio", {"type": "ellipselabels", "value": value, **sides})
    for name in ("via", "cvat"):
        assert marks(pack(read(tmp_path / name))) == {"1.jpg": [("cat", [35, 10, 10, 40])]}, name
    found = marks(pack(read(tmp_path / "label-studio")))
    assert found == {"1.jpg": [("cat", [round(35 / 80, 4), round(10 / 60, 4), 0.125, round(40 / 60, 4)])]}


@pytest.mark.parametrize("with_area", [True, False])
def test_a_choice_about_a_shape_of_label_studio_is_its_label(tmp_path: Path, with_area: bool) -> None:
    shapes = [{"id": f"r{n}", "type": "rectangle", "value": {**AREA, "x": 10 * n}} for n in (1, 2)]
    choices = [
        {"id": f"r{n}", "type": "choices", "value": {**({**AREA, "x": 10 * n} if with_area else {}), "choices": [name]}}
        for n, name in ((1, "cat"), (2, "dog"))
    ]
    imported = read(label_studio_of(tmp_path, *shapes, *choices))
    assert marks(pack(imported)) == {"1.jpg": [("cat", [0.1, 0.1, 0.5, 0.5]), ("dog", [0.2, 0.1, 0.5, 0.5])]}
    assert imported.notes == ()


def test_a_choice_about_a_shape_of_label_studio_that_has_a_label_is_left_out(tmp_path: Path) -> None:
    shape = {"id": "r", "type": "rectanglelabels", "value": {**AREA, "rectanglelabels": ["cat"]}}
    choice = {"id": "r", "type": "choices", "value": {**AREA, "choices": ["hidden"]}}
    imported = read(label_studio_of(tmp_path, shape, choice))
    assert imported.categories == ("cat",)
    assert imported.notes == ("left out: 1 choice about shapes that have labels",)
