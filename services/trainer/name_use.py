"""What a classifier's trial made of the names of its categories."""

from enum import StrEnum

import msgspec


class NameEffect(StrEnum):
    """How names shaped the head."""

    NONE = "NONE"  # they did not lower the log loss, or could not be read
    CENTRE = "CENTRE"  # its penalty draws to the weights that they give
    ALONE = "ALONE"  # these weights are the head


class NameUse(msgspec.Struct, frozen=True, kw_only=True):
    """A text tower's part in a head."""

    effect: NameEffect = NameEffect.NONE
    network: str = ""  # the first with a text tower; empty: there is none
    scale: float = 0.0  # of the network's own logits


NO_NAME_USE = NameUse()
