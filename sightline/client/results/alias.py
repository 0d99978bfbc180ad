"""Aliases of models."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from sightline.client.results.convert import moment
from sightline.v1 import model_alias_pb2


@dataclass(frozen=True, slots=True)
class AliasSwitch:
    """One switch of an alias."""

    model: str  # models/{model}, which may have been deleted
    time: datetime | None
    subject: str  # whose token switched it; empty without authentication


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A name that stands for a model."""

    name: str  # models/{model}@{alias}
    model: str  # models/{model}
    etag: str
    create_time: datetime | None
    update_time: datetime | None  # of the last switch
    switches: tuple[AliasSwitch, ...]  # the latest first
    message: model_alias_pb2.ModelAlias = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: model_alias_pb2.ModelAlias) -> Self:
        """The content of the message."""
        return cls(
            name=message.name,
            model=message.model,
            etag=message.etag,
            create_time=moment(message.create_time),
            update_time=moment(message.update_time),
            switches=tuple(AliasSwitch(one.model, moment(one.switch_time), one.subject) for one in message.switches),
            message=message,
        )
