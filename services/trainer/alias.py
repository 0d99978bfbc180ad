"""An alias: a name that stands for a model, such as `models/birds@production`."""

from dataclasses import dataclass
from datetime import datetime

import msgspec
from msgspec.structs import replace

from services.kit import names
from services.trainer.domain import Model

MOST_ALIASES = 1000  # of a project: every api holds them in memory, and none expires
MOST_SWITCHES = 50  # that are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """The model that an alias stands for since then."""

    model: str
    model_uid: str  # which model of the name
    time: datetime
    subject: str  # whose token switched it
    request_id: str = ""  # of a call that switched back


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A record `models/{model}/aliases/{alias}`; callers name it `models/{model}@{alias}`."""

    name: str
    create_time: datetime
    switches: tuple[Switch, ...]  # the latest first, never empty

    @property
    def model(self) -> str:
        """The name of the model that it stands for."""
        return self.switches[0].model

    @property
    def public_name(self) -> str:
        """As callers name it."""
        return "@".join(self.name.rsplit("/aliases/", 1))

    def stands_for(self, model: Model) -> bool:
        """Whether it stands for this model, and not for an earlier one of the same name."""
        return self.switches[0].model == model.name and self.switches[0].model_uid == model.uid

    def switched(self, model: Model, now: datetime, subject: str, request_id: str = "") -> "Alias":
        """The alias standing for the model; itself if it does already."""
        if self.stands_for(model):
            return self
        switch = Switch(model=model.name, model_uid=model.uid, time=now, subject=subject, request_id=request_id)
        return replace(self, switches=(switch, *self.switches)[:MOST_SWITCHES])


def drafted(key: str, model: Model, now: datetime, subject: str) -> Alias:
    """A new alias for the model."""
    switch = Switch(model=model.name, model_uid=model.uid, time=now, subject=subject)
    return Alias(name=key, create_time=now, switches=(switch,))


def key_of(name: str) -> str:
    """The record's key of an alias that callers name so."""
    return "/aliases/".join(name.rsplit(names.ALIAS_MARK, 1))
