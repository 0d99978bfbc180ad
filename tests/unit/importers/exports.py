"""Exports of other tools, made as their documentation describes them, over small images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

SIDES = (80, 60)


def picture(file: Path, number: int = 0) -> Path:
    """A small image, another one for each number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIDES, (number * 37 % 256, number * 91 % 256, 90))
    image.paste((250, 250, 250), (number % 40, 5, number % 40 + 20, 35))
    image.save(file)
    return file


def pictures(folder: Path, names: Iterable[str]) -> None:
    for number, name in enumerate(names):
        picture(folder / name, number)


def folder_per_class(root: Path, splits: Iterable[str] = ("",)) -> Path:
    for split in splits:
        for name in ("cat", "dog"):
            pictures(root / split / name, [f"{name}-{split}-{number}.jpg" for number in range(3)])
    return root


def yolo(root: Path, *, images_first: bool = True) -> Path:
    """As Ultralytics' tutorials lay it out (`images/train`), or as Roboflow does (`train/images`)."""
    for split in ("train", "valid"):
        for number in range(3):
            place = f"{{}}/{split}" if images_first else f"{split}/{{}}"
            picture(root / place.format("images") / f"{split}{number}.jpg", number)
            label = root / place.format("labels") / f"{split}{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.2\n" if number else "")
    paths = {split: f"images/{split}" if images_first else f"../{split}/images" for split in ("train", "valid")}
    lines = [f"train: {paths['train']}", f"val: {paths['valid']}", "nc: 3", "names: ['cat', 'dog', 'cow']"]
    (root / "data.yaml").write_text("\n".join([*(["path: ../datasets/pets"] if images_first else []), *lines]))
    return root


def voc(root: Path) -> Path:
    """As the challenge's development kit describes it."""
    for number in range(3):
        picture(root / "JPEGImages" / f"{number:06d}.jpg", number)
        file = root / "Annotations" / f"{number:06d}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            f"<annotation><folder>VOC2007</folder><filename>{number:06d}.jpg</filename>"
            "<size><width>80</width><height>60</height><depth>3</depth></size><segmented>0</segmented>"
            "<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
            "<bndbox><xmin>8</xmin><ymin>6</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>"
            "<part><name>head</name><bndbox><xmin>9</xmin><ymin>7</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></part>"
            "</object><object><name>dog</name><difficult>1</difficult>"
            "<bndbox><xmin>50.5</xmin><ymin>6</ymin><xmax>70.5</xmax><ymax>36</ymax></bndbox></object></annotation>"
        )
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("000000\n000001\n")
    (sets / "val.txt").write_text("000002\n")
    return root


def custom_vision(root: Path, *, regions: bool) -> Path:
    """What the training API's GetTaggedImages returns, with each image saved under its id."""
    listed: list[dict[str, object]] = []
    for number in range(3):
        identity = f"0d0f6a1e-0000-4000-8000-00000000000{number}"
        picture(root / "images" / f"{identity}.jpg", number)
        tag = {"tagId": "a-1", "tagName": "cat" if number else "dog", "created": "2026-01-01T00:00:00.000Z"}
        region = {"regionId": "r-1", **tag, "left": 0.1, "top": 0.1, "width": 0.5, "height": 0.5}
        listed.append(
            {
                "id": identity,
                "created": "2026-01-01T00:00:00.000Z",
                "width": 80,
                "height": 60,
                "originalImageUri": f"https://irisprod.blob.core.windows.net/i-1/i-{number}?sv=2017-04-17&sig=x%2By",
                "tags": [tag],
                **({"regions": [region]} if regions else {}),
            }
        )
    (root / "export.json").write_text(json.dumps(listed))
    return root


def label_studio(root: Path) -> Path:
    """The JSON of a project with rectangles, exported with its images in a folder."""
    tasks: list[dict[str, object]] = []
    for number in range(3):
        picture(root / "images" / f"abcd123{number}-photo {number}.jpg", number)
        value = {"x": 10.0, "y": 10.0, "width": 50.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["Cat"]}
        result = {"id": "r1", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value,
                  "original_width": 80, "original_height": 60}  # fmt: skip
        answers = [{"id": 1, "was_cancelled": False, "result": [result] if number else []}]
        data = {"image": f"/data/upload/1/abcd123{number}-photo%20{number}.jpg"}
        tasks.append({"id": number + 1, "annotations": answers, "data": data, "project": 1})
    (root / "project-1.json").write_text(json.dumps(tasks))
    return root


def cvat(root: Path) -> Path:
    """The XML of a task, with its images next to it."""
    images: list[str] = []
    for number in range(3):
        picture(root / "images" / f"{number}.jpg", number)
        images.append(
            f'<image id="{number}" name="{number}.jpg" width="80" height="60">'
            '<box label="cat" source="manual" occluded="0" xtl="8.0" ytl="6.0" xbr="48.0" ybr="36.0" z_order="0"></box>'
            '<polygon label="dog" points="10.0,10.0;30.0,10.0;20.0,40.0"></polygon></image>'
        )
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("cat", "dog", "cow"))
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0"?><annotations><version>1.1</version>{meta}{"".join(images)}</annotations>'
    )
    return root


def labelme(root: Path) -> Path:
    """What LabelMe saves next to each image, and on Windows with a path to it."""
    for number in range(3):
        picture(root / "images" / f"{number}.jpg", number)
        shapes = [
            {"label": "cat", "points": [[48.0, 36.0], [8.0, 6.0]], "shape_type": "rectangle", "flags": {}},
            {"label": "dog", "points": [[10.0, 10.0], [30.0, 10.0], [20.0, 40.0]], "shape_type": "polygon"},
            {"label": "dog", "points": [[40.0, 30.0], [43.0, 34.0]], "shape_type": "circle"},
            {"label": "nose", "points": [[1.0, 1.0]], "shape_type": "point"},
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes if number else [], "imageData": None,
                   "imagePath": f"..\\images\\{number}.jpg", "imageHeight": 60, "imageWidth": 80}  # fmt: skip
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{number}.json").write_text(json.dumps(content))
    return root


def via(root: Path, *, project: bool) -> Path:
    """Annotations exported as JSON, or the project as version 2 saves it."""
    images: dict[str, object] = {}
    for number in range(3):
        size = picture(root / f"{number}.jpg", number).stat().st_size
        shapes = [
            {"name": "rect", "x": 8, "y": 6, "width": 40, "height": 30},
            {"name": "polygon", "all_points_x": [10, 30, 20], "all_points_y": [10, 10, 40]},
            {"name": "ellipse", "cx": 40, "cy": 30, "rx": 5, "ry": 10},
        ]
        kinds: list[object] = ["cat", {"dog": True, "cow": False}, "dog"]
        regions = [
            {"shape_attributes": shape, "region_attributes": {"Class": kind, "occluded": "no"}}
            for shape, kind in zip(shapes, kinds, strict=True)
        ]
        images[f"{number}.jpg{size}"] = {
            "filename": f"{number}.jpg",
            "size": size,
            "regions": regions if number else [],
            "file_attributes": {"caption": "a photo", "public_domain": "no", "image_url": ""},
        }
    whole = {"_via_settings": {}, "_via_attributes": {}, "_via_img_metadata": images} if project else images
    (root / "via.json").write_text(json.dumps(whole))
    return root


def supervisely(root: Path, *, tags: bool = False) -> Path:
    """A project with one dataset, as its export has it."""
    (root / "ds0" / "ann").mkdir(parents=True)
    (root / "meta.json").write_text(json.dumps({"classes": [{"title": "cat", "shape": "rectangle"}], "tags": []}))
    for number in range(3):
        picture(root / "ds0" / "img" / f"{number}.jpg", number)
        shapes = [
            {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[8, 6], [48, 36]]}},
            {"classTitle": "dog", "geometryType": "polygon",
             "points": {"exterior": [[10, 10], [30, 10], [20, 40]], "interior": []}},
            {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": "", "origin": [1, 1]}},
        ]  # fmt: skip
        marks = {"tags": [{"name": "cat" if number else "dog", "value": None}], "objects": []}
        content = marks if tags else {"tags": [], "objects": shapes if number else []}
        file = root / "ds0" / "ann" / f"{number}.jpg.json"
        file.write_text(json.dumps({"description": "", "size": {"height": 60, "width": 80}, **content}))
    return root


def createml(root: Path) -> Path:
    """As Roboflow exports it."""
    listed: list[dict[str, object]] = []
    for number in range(3):
        picture(root / f"{number}.jpg", number)
        mark = {"label": "cat", "coordinates": {"x": 28.0, "y": 21.0, "width": 40.0, "height": 30.0}}
        listed.append({"image": f"{number}.jpg", "annotations": [mark] if number else []})
    (root / "_annotations.createml.json").write_text(json.dumps(listed))
    return root


def coco_file(file: Path, names: Iterable[str], **fields: object) -> Path:
    """A COCO file whose images have the categories cat and dog in turn."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    marks = [{"id": i["id"], "image_id": i["id"], "category_id": int(str(i["id"])) % 2 + 1} for i in images]
    content = {
        "images": images,
        "annotations": marks,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**content, **fields}))
    return file
