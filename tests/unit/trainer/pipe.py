"""The worker's side of the pipe, blocking, for tests."""

from typing import BinaryIO

import msgspec

from services.trainer import framing
from services.trainer.messages import Message

_messages = msgspec.msgpack.Decoder(Message)


def receive_message(stream: BinaryIO) -> Message | None:
    """The next message, or None at the end of the stream; ValueError or EOFError for anything else."""
    return framing._receive(stream, _messages)
