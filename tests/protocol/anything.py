"""Any message that the definition allows: strategies made from the descriptors, so that none is forgotten."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from livekit.protocol import agent as pb

from livekit_agent.protocol import Role

#: Every variant of both envelopes: (who says it, its name).
VARIANTS: list[tuple[Role, str]] = [
    (role, field.name)
    for role, envelope in ((Role.WORKER, pb.WorkerMessage), (Role.SERVER, pb.ServerMessage))
    for field in envelope.DESCRIPTOR.oneofs_by_name["message"].fields
]

#: protobuf writes the largest float as JSON rounded up, and then refuses to read it.
_LARGEST_FLOAT = float.fromhex("0x1.fffffep+127")

_TEXT = st.text(max_size=6)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=6),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32).filter(lambda number: abs(number) != _LARGEST_FLOAT),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    # Numbers that nobody has named yet as well: proto3 keeps them.
    FieldDescriptor.TYPE_ENUM: st.integers(0, 12),
}


def envelope(role: Role, variant: str) -> st.SearchStrategy[Any]:
    """A whole message of that variant."""
    outer = pb.WorkerMessage if role is Role.WORKER else pb.ServerMessage
    inner = outer.DESCRIPTOR.fields_by_name[variant].message_type
    return filled(inner, 4).map(lambda content: outer(**{variant: content}))


def filled(descriptor: Descriptor, depth: int) -> st.SearchStrategy[Message]:
    """A message with any of its fields set, ``depth`` levels of messages deep."""
    fields = [field for field in descriptor.fields if depth > 1 or field.message_type is None]
    each = {field.name: _value(field, depth) for field in fields}
    chosen = st.lists(st.sampled_from(sorted(each)), max_size=5, unique=True) if each else st.just([])
    made: Any = GetMessageClass(descriptor)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: each[name] for name in names})).map(
        lambda values: made(**values)
    )


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields
        return st.dictionaries(_value(key, depth), _value(value, depth), max_size=2)
    one = st.deferred(lambda: filled(message, depth - 1)) if message is not None else _SCALARS[field.type]
    return st.lists(one, max_size=2) if field.is_repeated else one
