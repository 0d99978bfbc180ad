"""Several COCO files as one, for those who can use only one."""

from collections.abc import Iterable, Mapping
from typing import Any

from sightline.importers.coco import key_of
from sightline.importers.model import objects, text_of

Entry = dict[str, Any]


def merged(contents: Iterable[Mapping[str, Any]]) -> Entry:
    """The images, annotations and categories of all files under new ids; categories of the same name are one.

    What an annotation names that its own file does not have stays unknown, so that the service reports it.
    """
    images: list[Entry] = []
    annotations: list[Entry] = []
    categories: dict[str, Entry] = {}
    for number, content in enumerate(contents, 1):
        found: dict[str, dict[str, int]] = {"image_id": {}, "category_id": {}}
        for one in objects(content.get("images")):
            images.append({**one, "id": len(images) + 1})
            for key in (text_of(one.get("file_name")), key_of(one.get("id"))):
                found["image_id"][key] = len(images)
        for one in objects(content.get("categories")):
            name = text_of(one.get("name"))
            made = categories.setdefault(name, {**one, "id": len(categories) + 1})
            for key in (name, key_of(one.get("id"))):
                found["category_id"][key] = made["id"]
        for one in objects(content.get("annotations")):
            ids = {
                field: known.get(key_of(one[field]), f"{one[field]} of file {number}")
                for field, known in found.items()
                if field in one
            }
            annotations.append({**one, **ids, "id": len(annotations) + 1})
    return {"images": images, "annotations": annotations, "categories": [*categories.values()]}
