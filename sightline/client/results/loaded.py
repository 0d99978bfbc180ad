"""Models in the memory of a replica of the predictor."""

from dataclasses import dataclass, field
from datetime import datetime

from sightline.client.results.convert import moment
from sightline.v1 import prediction_pb2


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in the memory of the replica that answered."""

    name: str  # models/{model}
    version: str
    size_bytes: int
    load_time: datetime | None
    last_used_time: datetime | None  # None: not used yet
    use_count: int  # images that it has answered for
    pinned: bool  # it stays whatever else is asked for
    message: prediction_pb2.LoadedModel = field(repr=False, compare=False)

    @classmethod
    def of(cls, message: prediction_pb2.LoadedModel) -> "LoadedModel":
        """The content of the message."""
        return cls(
            name=message.model_name,
            version=message.model_version,
            size_bytes=message.size_bytes,
            load_time=moment(message.load_time),
            last_used_time=moment(message.last_used_time),
            use_count=message.use_count,
            pinned=message.pinned,
            message=message,
        )
