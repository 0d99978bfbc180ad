"""Differences between two versions of a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelled:
    """An image whose annotations differ: other categories, or other boxes."""

    file_name: str
    before: tuple[str, ...]  # the category of each annotation, sorted
    after: tuple[str, ...]  # equal to `before` if only boxes moved


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDiff:
    """How a newer version of a dataset differs from an older one; images by their names."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]  # images with other bytes under the same name
    renamed: tuple[tuple[str, str], ...]  # the same bytes under another name: the old one, the new one
    relabelled: tuple[Relabelled, ...]
    categories_added: tuple[str, ...]
    categories_removed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return any(getattr(self, name) for name in self.__slots__)
