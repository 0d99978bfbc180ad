"""A worker's side of the pipe for tests, which block where the worker awaits."""

from typing import BinaryIO

import msgspec

from services.trainer import framing
from services.trainer.messages import Message

_messages = msgspec.msgpack.Decoder(Message)


def receive_message(stream: BinaryIO) -> Message | None:
    """The next message, None at the end of the stream; ValueError or EOFError for anything else."""
    return framing._receive(stream, _messages)
