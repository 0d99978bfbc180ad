"""Checks the ids of a COCO file: none is used twice, and those that are referred to are declared."""

from dataclasses import dataclass

import numpy as np

from services.dataset.columns import NONE, Columns, Index, Integers, Positions
from services.dataset.findings import FindingLog


def used_categories(file: Columns) -> set[int]:
    """The category ids that annotations have."""
    return set(np.unique(file.category_ids).tolist()) - {NONE}


@dataclass(frozen=True, slots=True)
class Links:
    """What each annotation refers to; -1 where it is not declared."""

    images: Positions  # in the file
    categories: Positions  # in the snapshot


def check_ids(file: Columns, uri: str, categories: dict[int, int], log: FindingLog) -> Links:
    """Reports ids that are used twice or not declared; `categories` are the indices of those that are declared."""
    ids, index = file.ids, Index(file.ids)
    repeated = index.repeated()
    for position, first in zip(repeated.tolist(), index.find(ids[repeated]).tolist(), strict=True):
        id_, names = int(ids[position]), (file.names[first], file.names[position])
        log.add("imageDuplicateId", uri, id_, image=id_, first=names[0], second=names[1])
    links = Links(index.find(file.image_ids).astype(np.int32), _indices(file.category_ids, categories).astype(np.int32))
    _check_annotations(file, uri, links, log)
    return links


def _indices(category_ids: Integers, categories: dict[int, int]) -> Integers:
    declared = np.array(list(categories), np.int64)
    indices = np.array([*categories.values(), -1], np.int64)
    return indices[Index(declared).find(category_ids)]


def _check_annotations(file: Columns, uri: str, links: Links, log: FindingLog) -> None:
    mark_ids = file.mark_ids
    for position in np.flatnonzero((links.categories < 0) | (links.images < 0)).tolist():
        image, category = int(links.images[position]), int(file.category_ids[position])
        image_id, mark_id = int(file.image_ids[position]), file.mark_id(position)
        name = file.names[image] if image >= 0 else uri
        if category == NONE:
            log.add("annotationWithoutCategory", name, image_id, mark_id)
        elif links.categories[position] < 0:
            log.add("categoryUndeclared", name, image_id, mark_id, category_id=category)
        if image < 0:
            log.add("annotationUnknownImage", uri, image_id, mark_id, image=image_id)
    given = mark_ids[mark_ids != NONE]
    repeated = Index(given).repeated()
    if len(repeated):
        log.add("annotationDuplicateId", uri, count=len(repeated), annotation=int(given[repeated[0]]))
