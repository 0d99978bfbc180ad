"""Target: exports of other tools, one file of which is mutated; read, told about and packed as the command does."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from random import Random

from sightline.importers.files import walk
from sightline.importers.image_files import ANNOTATIONS
from sightline.importers.model import ImportFault
from sightline.importers.package import pack
from sightline.importers.read import read
from sightline.importers.summary import summary
from tests.fuzz.mutations import mutated, mutated_json
from tests.fuzz.target import Execute, outcome_of, target
from tests.unit.importers import exports

TEXTS = {
    "train.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n0.jpg,80,60,cat,1,2,30,40\n1.jpg,80,60,dog,1,2,3,4",
    "labels.tsv": "image\tlabel\n0.jpg\tcat\n1.jpg\tdog\n",
    "train.jsonl": '{"file_name": "0.jpg", "label": "cat"}\n{"file_name": "1.jpg", "label": "dog"}\n',
    "a.manifest": '{"source-ref": "s3://b/0.jpg", "boxes": {"image_size": [{"width": 80, "height": 60}], "annotations":'
    ' [{"class_id": 0, "top": 1, "left": 2, "height": 3, "width": 4}]}, "boxes-metadata": {"class-map": {"0": "cat"}}}',
    "datumaro.json": json.dumps(
        {
            "info": {},
            "categories": {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}},
            "items": [{"id": "0", "annotations": [{"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]}],
                       "image": {"path": "0.jpg", "size": [60, 80]}}],
        }
    ),
    "samples.json": json.dumps(
        {"samples": [{"filepath": "0.jpg", "ground_truth": {"_cls": "Detections", "detections": [
            {"label": "cat", "bounding_box": [0.1, 0.2, 0.3, 0.4]}]}}]}
    ),
    "vott.json": json.dumps(
        {"assets": {"a": {"asset": {"id": "a", "name": "0.jpg", "path": "file:/x/0.jpg", "state": 2}, "regions": [
            {"tags": ["cat"], "boundingBox": {"left": 1, "top": 2, "width": 3, "height": 4}, "points": []}]}}}
    ),
    "via3.json": json.dumps(
        {
            "project": {"pname": "p"},
            "attribute": {"1": {"aname": "class", "type": 4, "options": {"0": "cat"}}},
            "file": {"1": {"fid": "1", "fname": "0.jpg", "type": 2}},
            "view": {"1": {"fid_list": ["1"]}},
            "metadata": {"m": {"vid": "1", "z": [], "xy": [7, 1, 2, 3, 4, 5, 6], "av": {"1": "0"}}},
        }
    ),
    "scalabel.json": json.dumps(
        [{"name": "0.jpg", "labels": [{"category": "cat", "box2d": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}},
                                      {"category": "lane", "poly2d": [{"vertices": [[1, 2], [3, 4]]}]}]}]
    ),
}  # fmt: skip
MAKERS: dict[str, Callable[[Path], object]] = {
    "folders": exports.folder_per_class,
    "yolo": exports.yolo,
    "roboflow": partial(exports.yolo, images_first=False),
    "voc": exports.voc,
    "custom_vision": partial(exports.custom_vision, regions=True),
    "label_studio": exports.label_studio,
    "cvat": exports.cvat,
    "labelme": exports.labelme,
    "via": partial(exports.via, project=True),
    "supervisely": exports.supervisely,
    "createml": exports.createml,
    "coco": lambda root: exports.coco_file(root / "a.json", ["0.jpg", "1.jpg"], info={}),
}


@target
async def imports(folder: Path) -> AsyncGenerator[Execute]:
    """All forms of labelled images."""
    for form, make in MAKERS.items():
        (folder / form).mkdir()
        make(folder / form)
    for name, text in TEXTS.items():
        exports.pictures(folder / name, ["0.jpg", "1.jpg"])
        (folder / name / name).write_text(text)
    exports.pictures(folder / "coco", ["0.jpg", "1.jpg"])
    known = ANNOTATIONS | {".jsonl", ".manifest"}
    contents = {folder / name: (folder / name).read_bytes() for name in walk(folder) if Path(name).suffix in known}
    files = list(contents)

    async def execute(random: Random) -> str:
        file = random.choice(files)
        data, root = contents[file], folder / file.relative_to(folder).parts[0]
        structured = file.suffix == ".json" and random.random() < 0.7
        changed = (
            mutated_json(json.loads(data), random) if structured else mutated(data, random, list(contents.values()))
        )
        file.write_bytes(changed)
        source = file if random.random() < 0.2 else root

        def parse() -> None:
            imported = read(source)
            list(summary(imported))
            for one in pack(imported).annotation_files():
                assert one.content is None or json.loads(one.content)

        try:
            return outcome_of(parse, ImportFault)
        finally:
            file.write_bytes(data)

    yield execute
