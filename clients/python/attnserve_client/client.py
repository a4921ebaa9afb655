# SPDX-License-Identifier: Apache-2.0
"""The blocking client. Its twin for asyncio is ``aio_client.py``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from attnserve.v1 import caption_pb2, model_pb2, translation_pb2
from attnserve_client import convert, health, methods
from attnserve_client.channel import CHANNEL_OPTIONS, DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, metadata_of
from attnserve_client.convert import ImageFile
from attnserve_client.errors import AttnserveError
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.options import CaptionKeywords, DecodeOptions, OnError, RequestKeywords, asked, is_raising
from attnserve_client.retry import NO_RETRIES, RetryPolicy, policy_of
from attnserve_client.sync_calls import SyncCalls
from attnserve_client.types import Caption, CaptionDelta, Model, ModelDetails, Translation, TranslationDelta

EventT = TypeVar("EventT")


class Client:
    """A client of an attnserve server, safe to share between threads.

    Example:
        >>> with Client("127.0.0.1:8001") as client:
        ...     print(client.translate("A dog runs across the grass.", beam_size=5).text)

    All calls raise an ``AttnserveError`` where they end without an answer. Their ``timeout`` is in seconds and covers all attempts:
    None for the client's own, ``math.inf`` for none.

    Args:
        address: the server's ``host:port``.
        credentials: for TLS, as from ``grpc.ssl_channel_credentials``; None for a plain connection.
        timeout: seconds for a call that names no other timeout.
        retries: how often to try again where the server is overloaded or away: a number, or a whole policy; 0 for never.
        client_id: what this client calls itself, 1 to 128 visible ASCII characters: the server shares itself out between clients,
            and takes each connection for a client of its own unless they say that they are one.

    Raises:
        ValueError: ``client_id`` is not sane.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retries: int | RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        client_id: str = "",
    ) -> None:
        self.address, metadata = address, metadata_of(client_id)
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._calls = SyncCalls(self._channel, address, policy_of(retries), timeout, metadata)

    def close(self) -> None:
        """Cancels what is under way and closes the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Returns the client, which is closed at the block's end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the client."""
        self.close()

    def translate(
        self,
        text: str,
        *,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[RequestKeywords],
    ) -> Translation:
        """Translates one text.

        Args:
            text: not empty.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts together.
            keywords: single options, over those of ``options``; ``split_sentences`` and ``priority``.
        """
        wanted = asked(options, keywords)
        request = convert.translate_request(translation_pb2.TranslateRequest, text, model, version, wanted)
        return convert.translation_from_proto(self._calls.unary(methods.TRANSLATE, request, timeout))

    def translate_stream(
        self,
        text: str,
        *,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[RequestKeywords],
    ) -> Generator[TranslationDelta | Translation, None, None]:
        """Translates one text, and returns an iterator over its parts as they come, then the whole; see ``translate``.

        Of several hypotheses, what all that may still win agree on comes as it becomes certain. The call starts with the first
        ``next()``; closing the iterator cancels it.
        """
        wanted = asked(options, keywords)
        request = convert.translate_request(translation_pb2.TranslateStreamRequest, text, model, version, wanted)
        return self._events(methods.TRANSLATE_STREAM, request, convert.event_from_proto, timeout)

    @overload
    def translate_many(
        self,
        texts: Iterable[str],
        *,
        on_error: Literal["raise"] = "raise",
        max_in_flight: int = 64,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[RequestKeywords],
    ) -> Generator[Translation, None, None]: ...

    @overload
    def translate_many(
        self,
        texts: Iterable[str],
        *,
        on_error: Literal["return"],
        max_in_flight: int = 64,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[RequestKeywords],
    ) -> Generator[Translation | AttnserveError, None, None]: ...

    def translate_many(  # noqa: PLR0913
        self,
        texts: Iterable[str],
        *,
        on_error: OnError = "raise",
        max_in_flight: int = 64,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[RequestKeywords],
    ) -> Generator[Translation | AttnserveError, None, None]:
        """Translates many texts at once over the one connection, and returns an iterator in their order; see ``translate``.

        Texts are drawn from ``texts`` as room comes free, so that it may be endless; ``timeout`` holds for each from then on.
        Closing the iterator cancels what is under way.

        Args:
            texts: none of them empty.
            on_error: ``"raise"`` ends with the first error in order; ``"return"`` yields errors in their texts' places.
            max_in_flight: calls under way at once, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts of one text.
            keywords: single options, over those of ``options``; ``split_sentences`` and ``priority``.
        """
        wanted, raising = asked(options, keywords), is_raising(on_error)
        kind = translation_pb2.TranslateRequest
        requests = (convert.translate_request(kind, text, model, version, wanted) for text in texts)
        return self._outcomes(requests, raising, timeout, max_in_flight)

    def caption(
        self,
        image: ImageFile,
        *,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[CaptionKeywords],
    ) -> Caption:
        """Describes one image.

        Args:
            image: a JPEG, PNG or WebP file: its bytes, or its path.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts together.
            keywords: single options, over those of ``options``, and ``priority``.

        Raises:
            OSError: the file cannot be read.
        """
        request = convert.caption_request(caption_pb2.CaptionRequest, image, model, version, asked(options, keywords))
        return convert.caption_from_proto(self._calls.unary(methods.CAPTION, request, timeout))

    def caption_stream(
        self,
        image: ImageFile,
        *,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[CaptionKeywords],
    ) -> Generator[CaptionDelta | Caption, None, None]:
        """Describes one image, and returns an iterator over the caption's parts as they come, then the whole; see ``caption``.

        The call starts with the first ``next()``; closing the iterator cancels it.
        """
        request = convert.caption_request(caption_pb2.CaptionStreamRequest, image, model, version, asked(options, keywords))
        return self._events(methods.CAPTION_STREAM, request, convert.caption_event_from_proto, timeout)

    def caption_many(
        self,
        images: Iterable[ImageFile],
        *,
        max_in_flight: int = 16,
        model: str = "",
        version: str = "",
        options: DecodeOptions | None = None,
        timeout: float | None = None,
        **keywords: Unpack[CaptionKeywords],
    ) -> Generator[Caption | AttnserveError, None, None]:
        """Describes many images at once over the one connection; returns an iterator over their captions or errors, in their order.

        Files are read as room comes free, so that there may be any number; ``timeout`` holds for each from then on. Closing the
        iterator cancels what is under way.

        Args:
            images: as for ``caption``.
            max_in_flight: calls under way at once, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts of one image.
            keywords: single options, over those of ``options``, and ``priority``.

        Raises:
            OSError: while iterating: a file cannot be read.
        """
        wanted, kind = asked(options, keywords), caption_pb2.CaptionRequest
        requests = (convert.caption_request(kind, image, model, version, wanted) for image in images)
        return self._caption_outcomes(requests, timeout, max_in_flight)

    def list_models(self, *, timeout: float | None = None) -> list[Model]:
        """Returns all models and versions that the server has, sorted by id, then by version."""
        request = model_pb2.ListModelsRequest()
        return convert.models_from_proto(self._calls.unary(methods.LIST_MODELS, request, timeout))

    def get_model(self, model: str, version: str = "", *, timeout: float | None = None) -> ModelDetails:
        """Returns one model with its manifest; the newest version unless one is named."""
        request = model_pb2.GetModelRequest(model=model, version=version)
        return convert.details_from_proto(self._calls.unary(methods.GET_MODEL, request, timeout))

    def is_healthy(self, service: str = "", *, timeout: float = health.CHECK_TIMEOUT_S) -> bool:
        """Tells whether the server, or one service or model of it, says that it serves; False where nobody answers."""
        try:
            answer = self._calls.unary(methods.HEALTH_CHECK, StringValue(value=service), timeout, NO_RETRIES)
        except AttnserveError as error:
            if health.means_down(error):
                return False
            raise
        return answer.value == methods.HEALTH_SERVING

    def wait_ready(self, timeout: float = DEFAULT_TIMEOUT_S, service: str = "") -> None:
        """Waits until ``is_healthy`` is true.

        Raises:
            DeadlineExceeded: it was not within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.is_healthy(service, timeout=max(health.POLL_S, deadline - time.monotonic())):
            if time.monotonic() + health.POLL_S > deadline:
                raise health.not_ready(self.address, timeout)
            time.sleep(health.POLL_S)

    def _events(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        make: Callable[[ResponseT], EventT | None],
        timeout: float | None,
    ) -> Generator[EventT, None, None]:
        with contextlib.closing(self._calls.stream(method, request, timeout)) as messages:
            for message in messages:
                event = make(message)
                if event is not None:
                    yield event

    def _caption_outcomes(
        self, requests: Iterable[caption_pb2.CaptionRequest], timeout: float | None, max_in_flight: int
    ) -> Generator[Caption | AttnserveError, None, None]:
        with contextlib.closing(self._calls.many(methods.CAPTION, requests, timeout, max_in_flight)) as outcomes:
            for outcome in outcomes:
                yield convert.value_of_outcome(outcome, convert.caption_from_proto, is_raising=False)

    def _outcomes(
        self, requests: Iterable[translation_pb2.TranslateRequest], raising: bool, timeout: float | None, max_in_flight: int
    ) -> Generator[Translation | AttnserveError, None, None]:
        with contextlib.closing(self._calls.many(methods.TRANSLATE, requests, timeout, max_in_flight)) as outcomes:
            for outcome in outcomes:
                yield convert.value_of_outcome(outcome, convert.translation_from_proto, raising)
