# SPDX-License-Identifier: Apache-2.0
"""Random requests to every RPC that a server offers, built from the descriptors: a new service or field is included by itself.

The names of services are read by reflection. A field's values follow from its type; fields of texts, images and names (``NAMED``) also
get values that a server can answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import strategies as st

from tests.clips import clip_file
from tests.e2e.every_task import IDS
from tests.e2e.serving import SENTENCES
from tests.fuzzing import corpus, mutated

CLIPS = [clip_file(kind, 4) for kind in ("mp4", "gif")]
IMAGES = list(corpus("image").values())
ODD_TEXTS = [
    "",
    " ",
    "\n",
    "\x00",
    "x" * 10_001,
    "dog " * 200,
    "🙂" * 50,
    "\u200b",
    "</s>",
    "%s%n{0}",
    "../../etc/hostname",
    "a. " * 70,
]
texts = st.sampled_from(SENTENCES[:6]) | st.sampled_from(ODD_TEXTS) | st.text(max_size=12)
small = st.integers(0, 9)
NAMED: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "prefix": st.just("") | texts,
    "image": st.sampled_from(IMAGES) | mutated(IMAGES, 2) | st.binary(max_size=20),
    "video": st.sampled_from(CLIPS) | mutated(CLIPS, 2) | st.binary(max_size=20),
    "class_name": st.sampled_from(["airplane", "automobile", "ship"]) | texts,
    "model": st.just("") | st.sampled_from([*IDS, "no-model"]) | st.text(max_size=4),
    "service": st.just("") | st.sampled_from(["transformer-en-de", "attnserve.v1.TranslationService"]) | st.text(max_size=4),
    "version": st.sampled_from(["", "", "1", "9"]) | st.text(max_size=3),
    "priority": st.integers(-2, 2) | st.integers(-(2**31), 2**31 - 1),
}
FLOATS = st.floats(width=32) | st.floats(0, 2, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-38, 3e38])
TYPES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=30),
    FieldDescriptor.TYPE_FLOAT: FLOATS,
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
}
INTEGERS: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True, repr=False)
class Rpc:
    """A method of a service."""

    method: MethodDescriptor

    def __repr__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def is_streaming(self) -> bool:
        return bool(self.method.server_streaming)

    def start(
        self, channel: grpc.Channel, requests: list[bytes], timeout: float, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Any:
        """Sends raw bytes; returns the call, a future or an iterator."""
        kind = f"{'stream' if self.method.client_streaming else 'unary'}_{'stream' if self.is_streaming else 'unary'}"
        call = getattr(channel, kind)(self.path)
        given: Any = iter(requests) if self.method.client_streaming else requests[0]
        return (call if self.is_streaming else call.future)(given, timeout=timeout, metadata=metadata)


def rpcs(channel: grpc.Channel) -> list[Rpc]:
    """All RPCs of all services that the server lists."""
    described = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(described)
    services = [pool.FindServiceByName(name) for name in described.get_services()]
    return [Rpc(method) for service in services for method in service.methods]


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.name in NAMED and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_SINT32):
        return NAMED[field.name]
    if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
        return messages(field.message_type, depth + 1)
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values]) | st.integers(-(2**31), 2**31 - 1)
    if field.type in TYPES:
        return TYPES[field.type]
    least, most = INTEGERS[field.cpp_type]
    return small | st.integers(least, most)


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages with some of their fields set, mostly two at most beside text, image or clip; nested ones to a depth of three."""
    kind = message_factory.GetMessageClass(descriptor)
    fields = [field for field in descriptor.fields if depth < 3 or field.type != FieldDescriptor.TYPE_MESSAGE]

    def make(given: dict[str, Any]) -> Message:
        return kind(**given)

    values = {
        field.name: st.lists(_field(field, depth), max_size=3) if field.is_repeated else _field(field, depth) for field in fields
    }
    content = {name: values.pop(name) for name in ("text", "image", "video") if name in values}
    few = st.lists(st.sampled_from(sorted(values)), max_size=2, unique=True) if values else st.just([])
    chosen = st.one_of(few, few, st.sets(st.sampled_from(sorted(values))).map(sorted) if values else few)
    return chosen.flatmap(lambda names: st.fixed_dictionaries(content | {name: values[name] for name in names})).map(make)


def requests_of(rpc: Rpc) -> st.SearchStrategy[list[bytes]]:
    """Serialized requests of one call: sound, with odd values, mutated, or random bytes."""
    sound = messages(rpc.method.input_type).map(lambda message: message.SerializeToString())
    mutations = sound.flatmap(lambda data: mutated([data], 2))
    one = sound | sound | mutations | st.binary(max_size=40)
    return st.lists(one, max_size=3) if rpc.method.client_streaming else one.map(lambda data: [data])


def strings_of(descriptor: Descriptor, make: Callable[[str], str | bytes], depth: int = 0) -> dict[str, Any]:
    """Keyword arguments that set every string and bytes field of a message to what ``make`` returns for its name."""
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            value = make(field.name)
            value = value.encode() if field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str) else value
            found[field.name] = [value] if field.is_repeated else value
        elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None and depth < 3:
            found[field.name] = strings_of(field.message_type, make, depth + 1)
    return found


def ended(call: Any, is_streaming: bool, most: int = 500) -> tuple[grpc.StatusCode, str, Iterable[tuple[str, str | bytes]]]:
    """Waits for the end of a call: its status, details and trailers. A stream of more than ``most`` messages is cancelled."""
    try:
        if is_streaming:
            for number, _ in enumerate(call):
                if number == most:
                    call.cancel()
        else:
            call.result()
    except grpc.RpcError:
        pass
    return call.code(), call.details() or "", tuple(call.trailing_metadata() or ())
