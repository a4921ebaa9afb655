# SPDX-License-Identifier: Apache-2.0
"""The wrapper between grpc.aio and the servicers' methods, unary and server-streaming.

A servicer's method takes a parsed request and a :class:`Call`, and returns (or yields) messages or raises a
:class:`ServiceError`. The wrapper does what all methods share: parsing, request id, deadline, status with details, cancellation.
Only ``server.py`` uses it; servicers use :class:`Call` and nothing of grpc.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf import message, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from attnserve_server.dataplane.accounts import Accounts, RequestRecorder
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.ends import Ends
from attnserve_server.errors import Cancelled, DeadlineExceeded, InvalidRequest, ServiceError
from attnserve_server.metrics import logs
from attnserve_server.metrics.ended import MethodName
from attnserve_server.metrics.trace_context import TRACEPARENT_KEY
from attnserve_server.transport.rpc.access import Access, host_of, scope_of
from attnserve_server.transport.rpc.arrivals import Arrivals
from attnserve_server.transport.rpc.parse import parse_request
from attnserve_server.transport.rpc.status import DETAILS_KEY, message_of, rich_status, status_of
from attnserve_server.transport.rpc.unread import Unread

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id: optional in requests, always present in trailers."""

CLIENT_ID_KEY = "x-client-id"
"""Metadata key of a client's own id, by which it divides its share of the queue."""

logger = logging.getLogger(__name__)

_VALID_ID = re.compile(r"[!-~]{1,128}")
_INTERNAL_TEXT = "internal error; the server's log has the details under this request's id"


UnaryMethod = Callable[[Any, Call], Awaitable[message.Message | bytes]]
"""Returns a message, or bytes where it was encoded on a thread."""
StreamMethod = Callable[[Any, Call], AsyncGenerator[message.Message, None] | Awaitable[AsyncGenerator[message.Message, None]]]
"""Yields messages, or returns a generator of them: a second generator around it would cost 1 µs per message."""


class _ClientGone(Exception):
    """A message could not be written because the client has disconnected."""


class Setup(NamedTuple):
    """What the services of a server share.

    Attributes:
        is_cancelling: whether the server has begun to cancel the RPCs that are left when it stops.
        unread: counts the answers under way.
        arrivals: reads the messages of calls.
        access: refuses calls; None for services that all may call, such as probes.
        ends: records the ends of calls; None for log lines alone.
    """

    is_cancelling: Callable[[], bool]
    unread: Unread
    arrivals: Arrivals
    access: Access | None = None
    ends: Ends | None = None


def service_handler(
    service: ServiceDescriptor, servicer: object, recorder: RequestRecorder | None, setup: Setup
) -> grpc.GenericRpcHandler:
    """Returns the handler of a whole service.

    Args:
        service: descriptor of the service; only unary and server-streaming methods are supported.
        servicer: has one method per RPC, in snake case ("TranslateStream": ``translate_stream``); missing ones are answered with
            UNIMPLEMENTED.
        recorder: counts requests; None for a service whose calls are neither counted nor logged, such as probes.
        setup: what the services of the server share.
    """
    handlers = {}
    for method in service.methods:
        function = getattr(servicer, _snake_case(method.name), None)
        if function is not None:
            handlers[method.name] = _handler(method, _Method(method, function, recorder, setup))
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _handler(method: MethodDescriptor, wrapped: _Method) -> grpc.RpcMethodHandler[bytes, bytes]:
    # Without (de)serializers grpc passes bytes, so that an invalid request gets our status, not grpc's. All requests are streams to
    # grpc, because grpc.aio never ends a unary call that comes without a message.
    make = grpc.stream_stream_rpc_method_handler if method.server_streaming else grpc.stream_unary_rpc_method_handler
    return make(wrapped.run_stream if method.server_streaming else wrapped.run_unary)


class _Method:
    """One RPC method: the common handling around the servicer's function."""

    def __init__(
        self,
        method: MethodDescriptor,
        function: Callable[..., Any],
        recorder: RequestRecorder | None,
        setup: Setup,
    ) -> None:
        self._name = method.name
        self._access, self._scope = setup.access, scope_of(method)
        self._message_class = message_factory.GetMessageClass(method.input_type)
        self._function = function
        name = MethodName(method.containing_service.full_name, method.name)
        self._accounts = Accounts(name, recorder, setup.is_cancelling, setup.ends)
        self._is_traced = setup.ends is not None and setup.ends.has_traces
        self._unread, self._arrivals = setup.unread, setup.arrivals

    async def run_unary(self, requests: object, context: Any) -> bytes:
        """Answers a unary RPC."""
        del requests
        data = await self._arrivals.read(context)
        call, metadata = self._begun(context)
        return cast(bytes, await self._ended(call, context, self._unary(call, context, metadata, data)))

    async def run_stream(self, requests: object, context: Any) -> None:
        """Answers a server-streaming RPC."""
        del requests
        data = await self._arrivals.read(context)
        call, metadata = self._begun(context)
        await self._ended(call, context, self._stream(call, context, metadata, data))

    def _begun(self, context: Any) -> tuple[Call, Any]:
        call, metadata = _begin(context)
        if self._is_traced:
            call.traceparent = _valid_id(metadata, TRACEPARENT_KEY) or ""
        return call, metadata

    async def _unary(self, call: Call, context: Any, metadata: Any, data: bytes | None) -> bytes:
        response = await cast(UnaryMethod, self._function)(self._checked(call, context, metadata, data), call)
        encoded = response if isinstance(response, bytes) else response.SerializeToString()
        sent = self._unread.begin(call.client, call.connection, len(encoded))
        cast(asyncio.Task[Any], asyncio.current_task()).add_done_callback(sent)  # grpc sends within this task
        return encoded

    async def _stream(self, call: Call, context: Any, metadata: Any, data: bytes | None) -> None:
        request, begin, write = self._checked(call, context, metadata, data), self._unread.begin, context.write
        call.hold = functools.partial(begin, call.client, call.connection)  # a write that waits lets answers wait
        found = cast(StreamMethod, self._function)(request, call)
        async with contextlib.aclosing(await found if isinstance(found, Awaitable) else found) as responses:
            async for response in responses:
                encoded = response.SerializeToString()
                del response  # it may be as large, and the client may be slow
                sent = begin(call.client, call.connection, max(len(encoded) - call.num_held, 0))
                try:
                    await write(encoded)
                except Exception as failure:  # grpc's internal exception types; all mean that the stream has ended
                    raise _ClientGone from failure
                finally:
                    sent()

    def _checked(self, call: Call, context: Any, metadata: Any, data: bytes | None) -> message.Message:
        """Returns the request of a call, if it may be answered."""
        if call.is_past_deadline():
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        if self._access is not None:
            self._access.check(call, context, metadata, self._scope)
        if data is None:
            raise InvalidRequest("the call has no message; one is needed")
        return parse_request(self._message_class, data)

    async def _ended(self, call: Call, context: Any, answer: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        """Waits for the end of a call, records it, and sends the status of one that failed."""
        error: ServiceError
        try:
            response = await answer
            self._accounts.answered(call)
            return response
        except _ClientGone:
            self._accounts.abandoned(call)
            raise asyncio.CancelledError from None  # the only way to end an RPC that grpc has already ended
        except asyncio.CancelledError:
            if _is_cancelled():  # by grpc: the client disconnected, the deadline passed, or the server stops
                self._accounts.abandoned(call)
                raise
            error = Cancelled("the request was cancelled on the server")
        except ServiceError as raised:
            error = raised.with_traceback(None)  # its frames hold the answer, and are in a cycle with it
        except Exception:
            logger.exception("%s failed", self._name)
            error = ServiceError(_INTERNAL_TEXT)
        finally:
            call.release()
        await self._refuse(call, context, error)
        raise AssertionError("abort always raises")

    async def _refuse(self, call: Call, context: Any, error: ServiceError) -> None:
        """Records a call that failed, and ends it with its status; raises."""
        self._accounts.failed(call, error, status_of(error).name)
        trailers = ((REQUEST_ID_KEY, call.request_id), (DETAILS_KEY, rich_status(error).SerializeToString()))
        try:
            await context.abort(status_of(error), message_of(error), trailers)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001  of grpc's internal types: the client left before it could be told
            raise asyncio.CancelledError from None


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _begin(context: Any) -> tuple[Call, Any]:
    """Makes the call: request id (set for this task's logs and the trailers), client and deadline; returns its metadata too."""
    remaining_s, peer, metadata = context.time_remaining(), context.peer(), context.invocation_metadata() or ()
    request_id = _valid_id(metadata, REQUEST_ID_KEY) or os.urandom(16).hex()
    call = Call(request_id, host_of(peer), part=_valid_id(metadata, CLIENT_ID_KEY) or peer, connection=peer)
    if remaining_s is not None:
        call.deadline = call.received_at + remaining_s
    logs.request_id.set(request_id)
    context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
    return call, metadata


def _valid_id(metadata: Any, wanted: str) -> str | None:
    """Returns the first valid value of a key, 1 to 128 visible ASCII characters; None if there is none."""
    for key, value in metadata:
        if key == wanted and isinstance(value, str) and _VALID_ID.fullmatch(value):
            return value
    return None
