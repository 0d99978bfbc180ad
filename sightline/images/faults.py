"""What is noticed while an image is read: notes about what was repaired, and Unusable for what cannot be."""

from dataclasses import dataclass, field


class Unusable(ValueError):
    """An image that is not what it seems, or cannot be converted to RGB unambiguously; the message is a predicate."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell about an image that was read all the same: a finding's code, and the words of its message."""

    code: str
    words: dict[str, str] = field(default_factory=dict[str, str])
