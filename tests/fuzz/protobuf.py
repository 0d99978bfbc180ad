"""Random messages of any type, by its descriptor, and valid ones with some fields changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from tests.fuzz.mutations import name

INTEGERS = (0, 1, 2, -1, 50, 1000, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-310, 1e38, float("nan"), float("inf"), float("-inf"))
DEPTH = 4  # of messages in messages
RANGES = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
    Field.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


class Messages:
    """Makes messages. `texts` are values of fields by their names, such as names of resources that exist."""

    def __init__(self, texts: Mapping[str, Sequence[str]], blobs: Sequence[bytes]) -> None:
        self._texts, self._blobs = texts, blobs

    def fill(self, message: Message, random: Random, depth: int = 0) -> None:
        """Sets about half of the fields."""
        for field in message.DESCRIPTOR.fields:
            if random.random() < (0.6 if depth == 0 else 0.3):
                self._set(message, field, random, depth)

    def change(self, message: Message, random: Random, depth: int = 0) -> None:
        """Changes one field, or one within a field that is a message."""
        fields = list(message.DESCRIPTOR.fields)
        if not fields:
            return
        field = random.choice(fields)
        if field.message_type and not field.is_repeated and random.random() < 0.7 and depth < DEPTH:
            self.change(getattr(message, field.name), random, depth + 1)
        else:
            self._set(message, field, random, depth)

    def _set(self, message: Message, field: Any, random: Random, depth: int) -> None:
        message.ClearField(field.name)
        if random.random() < 0.1:
            return
        if not field.is_repeated:
            if field.message_type:
                inner = getattr(message, field.name)
                inner.SetInParent()
                if depth < DEPTH:
                    self.fill(inner, random, depth + 1)
            else:
                setattr(message, field.name, self._scalar(field, random))
            return
        listed, count = getattr(message, field.name), random.choice((0, 1, 1, 2, 3, 30))
        if field.message_type and field.message_type.GetOptions().map_entry:
            self._set_map(listed, field.message_type.fields_by_name, count, random, depth)
        elif field.message_type:
            for _ in range(min(count, 3)):
                self.fill(listed.add(), random, depth + 1)
        else:
            listed.extend([self._scalar(field, random)] * count)

    def _set_map(self, mapping: Any, fields: Mapping[str, Any], count: int, random: Random, depth: int) -> None:
        for _ in range(count):
            key = self._scalar(fields["key"], random)
            if fields["value"].message_type:
                self.fill(mapping[key], random, depth + 1)
            else:
                mapping[key] = self._scalar(fields["value"], random)

    def _scalar(self, field: Any, random: Random) -> Any:
        match field.cpp_type:
            case Field.CPPTYPE_STRING if field.type == Field.TYPE_BYTES:
                return random.choice(self._blobs)
            case Field.CPPTYPE_STRING:
                known = self._texts.get(field.name)
                text = random.choice(known) if known and random.random() < 0.6 else name(random)
                return text.encode(errors="replace").decode()
            case Field.CPPTYPE_BOOL:
                return random.random() < 0.5
            case Field.CPPTYPE_FLOAT | Field.CPPTYPE_DOUBLE:
                return random.choice(FLOATS)
            case Field.CPPTYPE_ENUM if random.random() < 0.8:
                assert field.enum_type
                return random.choice(field.enum_type.values).number
            case kind:
                low, high = RANGES[kind]
                return min(max(random.choice(INTEGERS), low), high)
