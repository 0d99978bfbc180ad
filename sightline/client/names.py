"""Names of resources: `datasets/birds`, or `birds` where the collection is clear."""

from typing import Protocol


class Named(Protocol):
    """A resource that a service answered with."""

    @property
    def name(self) -> str:
        """`datasets/birds`."""
        ...


def full_name(collection: str, name: str | Named) -> str:
    """`birds` as `datasets/birds`; a full name, and a resource's, as it is."""
    text = name if isinstance(name, str) else name.name
    return text if text.startswith(f"{collection}/") else f"{collection}/{text}"


def own_id(collection: str, name: str) -> str:
    """The id that a new resource is asked for by, as typed: whether it is one, the service says."""
    return name.removeprefix(f"{collection}/")


def bare_name(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]


def evaluation_name(model: str | Named, name: str | Named) -> str:
    """`models/{model}/evaluations/{evaluation}`."""
    return full_name(f"{full_name('models', model)}/evaluations", name)
