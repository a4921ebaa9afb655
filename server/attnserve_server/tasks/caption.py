# SPDX-License-Identifier: Apache-2.0
"""The caption task: decodes an image file before the engine, renders text after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnserve_server.bundle.loader import Bundle
from attnserve_server.request import DecodeOptions, ImageSource, SequenceDone, SequencePayload
from attnserve_server.tasks import options
from attnserve_server.tasks.answers import Caption
from attnserve_server.tasks.fit import InputSizes
from attnserve_server.tasks.images import ImageLimits, Picture, read_picture
from attnserve_server.tasks.interface import Limits, Model
from attnserve_server.tasks.joining import Part
from attnserve_server.tasks.options import AskedOptions
from attnserve_server.tasks.rendering import NoText, TextPrepared, TextStream, hypotheses_of
from attnserve_server.tasks.text import TextTask


@dataclass(frozen=True, slots=True)
class AskedCaption:
    """A client's request: an image file and decode options."""

    image: bytes
    options: AskedOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionPrepared(TextPrepared):
    """A prepared caption request; its only part has no source text."""

    picture: Picture


class CaptionTask(TextTask):
    """Reads images and renders text for one captioning model. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        shape = bundle.manifest.image
        self._sizes = InputSizes(((shape.width, shape.height),))
        self._num_cells = shape.grid_width * shape.grid_height

    def read(self, data: bytes, limits: ImageLimits) -> Picture:
        """Decodes an image file for the model; see :func:`read_picture`."""
        return read_picture(data, limits, self._sizes)

    def source_of(self, picture: Picture) -> ImageSource:
        """Returns a decoded image for the encode graph."""
        return ImageSource(picture.pixels, self._num_cells)


class CaptionWork:
    """A :class:`~attnserve_server.tasks.interface.Task`: image to text."""

    def load(self, bundle: Bundle) -> CaptionTask:
        """See :class:`Task`."""
        return CaptionTask(bundle)

    def check(self, asked: AskedCaption, model: Model, limits: Limits) -> DecodeOptions:
        """See :class:`Task`: all checks that do not need the decoded image."""
        prefix = options.check_prefix(asked.options.prefix, limits.max_text_chars, "")
        checked = options.decode_options(asked.options, model)
        return options.with_prefix(checked, model.task.encode_prefix(prefix), model) if prefix else checked

    def effort(self, asked: AskedCaption) -> None:
        """See :class:`Task`: never inline, because decoding takes milliseconds."""
        return

    def prepare(self, asked: AskedCaption, checked: DecodeOptions, model: Model, limits: Limits) -> CaptionPrepared:
        """See :class:`Task`."""
        picture = model.task.read(asked.image, limits.image)
        payload = SequencePayload.of(model.task.source_of(picture), checked)
        return CaptionPrepared(model=model, parts=[Part(NoText())], options=checked, payloads=[payload], picture=picture)

    def render(self, prepared: CaptionPrepared, answers: Sequence[SequenceDone]) -> Caption:
        """See :class:`Task`."""
        return Caption(hypotheses_of(prepared, answers), prepared.picture.width, prepared.picture.height)

    def stream(self, prepared: CaptionPrepared) -> TextStream:
        """See :class:`Task`."""
        return TextStream(prepared)
