"""Resource names: `datasets/birds`, or `birds` where the collection is clear."""

from typing import Protocol


class Named(Protocol):
    """A resource that a service returned."""

    @property
    def name(self) -> str:
        """`datasets/birds`."""
        ...


def full_name(collection: str, name: str | Named) -> str:
    """`birds` as `datasets/birds`; a full name unchanged; the name of a resource."""
    text = name if isinstance(name, str) else name.name
    return text if text.startswith(f"{collection}/") else f"{collection}/{text}"


def own_id(collection: str, name: str) -> str:
    """The id for a new resource, as typed; the service validates it."""
    return name.removeprefix(f"{collection}/")


def bare_name(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]


def evaluation_name(model: str | Named, name: str | Named) -> str:
    """`models/{model}/evaluations/{evaluation}`."""
    return full_name(f"{full_name('models', model)}/evaluations", name)
