# SPDX-License-Identifier: Apache-2.0
# Generated from aio_client.py by make_sync.py: do not edit.
"""The client: methods for each task."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Literal, Unpack, overload

from attnserve.v1 import caption_pb2, translation_pb2
from attnserve_client import convert, methods
from attnserve_client.errors import AttnserveError
from attnserve_client.image_files import ImageFile
from attnserve_client.options import CaptionKeywords, DecodeOptions, OnError, RequestKeywords, asked, is_raising
from attnserve_client.sync_connection import events, values
from attnserve_client.sync_many import many
from attnserve_client.sync_passes import SyncPasses
from attnserve_client.types import Caption, CaptionDelta, Translation, TranslationDelta


class Client(SyncPasses):
    """A client of an attnserve server.

    The blocking client may be shared between threads. The client for asyncio belongs to one event loop and must be created in
    it; cancelling a task that awaits a call cancels the call.

    Example:
        >>> with Client("127.0.0.1:8001") as client:
        ...     answer = client.translate("A dog runs across the grass.", beam_size=5)
        ...     print(answer.text)

    All calls raise an ``AttnserveError`` on failure. Their ``timeout`` is in seconds and covers all attempts: None for the
    client's own, ``math.inf`` for none. Close an iterator that is not read to its end (``contextlib.closing``); that cancels
    its running calls.

    Args:
        address: the server's ``host:port``, or a target of gRPC such as ``unix:/path``. With ``dns:///host:port``, calls go in
            turn to all servers that the name has and that say they serve; the name is looked up again when a connection ends.
        credentials: for TLS, as from ``tls_credentials``; None for a plain connection.
        timeout: seconds for a call that names no other timeout.
        retries: maximum number of retries if the server is overloaded or unreachable, or a whole policy; 0 for none. By default
            a call is retried while its timeout allows.
        client_id: name of this part of the client, 1 to 128 visible ASCII characters. The server divides its capacity fairly
            between clients (by token, certificate or host), and a client's share between its ids, or else its connections.
        token: sent with every call, for servers that require one. Without TLS, the network can read it.

    Raises:
        ValueError: ``address``, ``client_id`` or ``token`` is invalid.
    """

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
            keywords: single options, which override ``options``; also ``split_sentences`` and ``priority``.
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
    ) -> Generator[TranslationDelta | Translation]:
        """Translates one text; returns an iterator over its parts as they arrive, then the whole translation; see ``translate``.

        With several hypotheses, text is sent once all hypotheses that can still win agree on it. The call starts with the first
        ``next()``; closing the iterator cancels it.
        """
        wanted = asked(options, keywords)
        request = convert.translate_request(translation_pb2.TranslateStreamRequest, text, model, version, wanted)
        return events(self._calls.stream(methods.TRANSLATE_STREAM, request, timeout), convert.event_from_proto)

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
    ) -> Generator[Translation]: ...

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
    ) -> Generator[Translation | AttnserveError]: ...

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
    ) -> Generator[Translation | AttnserveError]:
        """Translates many texts concurrently over one connection; returns an iterator in their order; see ``translate``.

        A text is taken from ``texts`` only when a call can start, so ``texts`` may be endless; its ``timeout`` starts then. Closing
        the iterator cancels the running calls.

        Args:
            texts: non-empty texts.
            on_error: ``"raise"`` ends with the first error in order; ``"return"`` yields an error in its text's position.
            max_in_flight: maximum number of concurrent calls, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts of one text.
            keywords: single options, which override ``options``; also ``split_sentences`` and ``priority``.
        """
        wanted, raising = asked(options, keywords), is_raising(on_error)
        kind = translation_pb2.TranslateRequest
        requests = convert.requests_of(
            lambda text: convert.translate_request(kind, text, model, version, wanted), texts, are_texts=True
        )
        outcomes = many(self._calls, methods.TRANSLATE, requests, timeout, max_in_flight)
        return values(outcomes, convert.translation_from_proto, raising)

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
            image: a JPEG, PNG or WebP file: its bytes, its path, or a file object; or an image of Pillow.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts together.
            keywords: single options, which override ``options``; also ``priority``.

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
    ) -> Generator[CaptionDelta | Caption]:
        """Describes one image; returns an iterator over the caption's parts as they arrive, then the whole; see ``caption``.

        The call starts with the first ``next()``; closing the iterator cancels it.
        """
        request = convert.caption_request(caption_pb2.CaptionStreamRequest, image, model, version, asked(options, keywords))
        return events(self._calls.stream(methods.CAPTION_STREAM, request, timeout), convert.caption_event_from_proto)

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
    ) -> Generator[Caption | AttnserveError]:
        """Describes many images concurrently over one connection; returns an iterator over captions or errors, in their order.

        A file is read only when a call can start, so there may be any number; its ``timeout`` starts then. A file that cannot be
        read gives an ``InvalidRequest`` in its position. Closing the iterator cancels the running calls.

        Args:
            images: as for ``caption``.
            max_in_flight: maximum number of concurrent calls, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            options: how to decode.
            timeout: seconds for all attempts of one image.
            keywords: single options, which override ``options``; also ``priority``.
        """
        wanted, kind = asked(options, keywords), caption_pb2.CaptionRequest
        requests = convert.requests_of(lambda image: convert.caption_request(kind, image, model, version, wanted), images)
        outcomes = many(self._calls, methods.CAPTION, requests, timeout, max_in_flight)
        return values(outcomes, convert.caption_from_proto, is_raising=False)
