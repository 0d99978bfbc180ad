"""The categories of a dataset's annotation files, merged by name."""

from collections.abc import Collection

from msgspec import structs

from services.dataset.coco import CocoCategory
from services.dataset.findings import FindingLog
from services.kit.alike import tidy
from sightline.plurals import listed
from sightline.text import fault_of_text

MAX_NAME = 256  # characters of a category's name
NAMED = 10  # categories in a finding


class Categories:
    """The categories of all files, merged by name: the first file's by id, then those that later files add."""

    def __init__(self) -> None:
        self.names: list[tuple[int, str]] = []
        self._index: dict[str, int] = {}
        self._taken: set[int] = set()
        self._next_id = 0  # above all that are taken

    def merge(
        self, declared: list[CocoCategory], uri: str, log: FindingLog, used: Collection[int] = ()
    ) -> dict[int, int]:
        """The snapshot's index of each category id of a file; only of those in `used`, unless that is empty.

        Names are stripped and in Unicode's composed form; equal names are one category.
        """
        if not declared:
            log.add("categoriesMissing", uri)
        by_id: dict[int, CocoCategory] = {}
        by_name: dict[str, int] = {}
        for category in (structs.replace(one, name=tidy(one.name)) for one in declared):
            if used and category.id not in used:
                continue
            if not category.name or len(category.name) > MAX_NAME:
                log.add("categoryNameMissing", uri, category_id=category.id)
            elif fault := fault_of_text(category.name):
                log.add("categoryNameInvalid", uri, category_id=category.id, name=category.name, fault=fault)
            if category.id in by_id:
                first = by_id[category.id].name
                if first == category.name:
                    continue
                log.add("categoryDuplicateId", uri, category_id=category.id, first=first, second=category.name)
            elif category.name in by_name:
                first, second = by_name[category.name], category.id
                log.add("categoriesMerged", uri, category=category.name, first=first, second=second)
            by_id.setdefault(category.id, category)
            by_name.setdefault(category.name, category.id)
        if unused := [f"{one.name!r} (id {one.id})" for one in declared if used and one.id not in used]:
            log.add("categoriesUnused", uri, count=len(unused), names=listed(unused, NAMED))
        return {id_: self._place(by_id[id_]) for id_ in sorted(by_id)}

    def _place(self, category: CocoCategory) -> int:
        if category.name not in self._index:
            id_ = self._next_id if category.id in self._taken else category.id
            self._taken.add(id_)
            self._next_id = max(self._next_id, id_ + 1)
            self._index[category.name] = len(self.names)
            self.names.append((id_, category.name))
        return self._index[category.name]
