# SPDX-License-Identifier: Apache-2.0
# Generated from aio_passes.py by make_sync.py: do not edit.
"""The client's methods for models that run once for an answer."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Unpack

from attnserve_client import convert, generation_convert, methods, pass_convert, video_convert
from attnserve_client.errors import AttnserveError
from attnserve_client.generation_types import Generation
from attnserve_client.image_files import ImageFile
from attnserve_client.options import ClassifyKeywords, ClassifyVideoKeywords, GenerateKeywords, SegmentKeywords
from attnserve_client.pass_types import Classification, Segmentation
from attnserve_client.sync_connection import SyncConnection, values
from attnserve_client.sync_many import many
from attnserve_client.video_convert import Clip
from attnserve_client.video_types import VideoClassification


class SyncPasses(SyncConnection):
    """Segmentation, classification of images and clips, and generation, for ``Client``."""

    def segment(
        self,
        image: ImageFile,
        *,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[SegmentKeywords],
    ) -> Segmentation:
        """Finds the class of each pixel of an image.

        Args:
            image: a JPEG, PNG or WebP file: its bytes, its path, or a file object; or an image of Pillow.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts together.
            keywords: ``return_unary``, ``queries``, ``format``, ``priority``; see ``SegmentKeywords``.

        Raises:
            OSError: the file cannot be read.
        """
        request = pass_convert.segment_request(image, model, version, keywords)
        return pass_convert.segmentation_from_proto(self._calls.unary(methods.SEGMENT, request, timeout))

    def segment_many(
        self,
        images: Iterable[ImageFile],
        *,
        max_in_flight: int = 16,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[SegmentKeywords],
    ) -> Generator[Segmentation | AttnserveError]:
        """Segments many images concurrently over one connection; returns an iterator over answers or errors, in their order.

        Files are read as by ``caption_many``.

        Args:
            images: as for ``segment``.
            max_in_flight: maximum number of concurrent calls, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts of one image.
            keywords: as for ``segment``.
        """
        requests = convert.requests_of(lambda image: pass_convert.segment_request(image, model, version, keywords), images)
        outcomes = many(self._calls, methods.SEGMENT, requests, timeout, max_in_flight)
        return values(outcomes, pass_convert.segmentation_from_proto, is_raising=False)

    def classify_image(
        self,
        image: ImageFile,
        *,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[ClassifyKeywords],
    ) -> Classification:
        """Finds the most probable classes of an image.

        Args:
            image: a JPEG, PNG or WebP file: its bytes, its path, or a file object; or an image of Pillow.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts together.
            keywords: ``top_k``, ``return_attention``, ``priority``; see ``ClassifyKeywords``.

        Raises:
            OSError: the file cannot be read.
        """
        request = pass_convert.classify_request(image, model, version, keywords)
        return pass_convert.classification_from_proto(self._calls.unary(methods.CLASSIFY_IMAGE, request, timeout))

    def classify_many(
        self,
        images: Iterable[ImageFile],
        *,
        max_in_flight: int = 16,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[ClassifyKeywords],
    ) -> Generator[Classification | AttnserveError]:
        """Classifies many images concurrently over one connection; returns an iterator over answers or errors, in their order.

        Files are read as by ``caption_many``.

        Args:
            images: as for ``classify_image``.
            max_in_flight: maximum number of concurrent calls, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts of one image.
            keywords: as for ``classify_image``.
        """
        requests = convert.requests_of(lambda image: pass_convert.classify_request(image, model, version, keywords), images)
        outcomes = many(self._calls, methods.CLASSIFY_IMAGE, requests, timeout, max_in_flight)
        return values(outcomes, pass_convert.classification_from_proto, is_raising=False)

    def classify_video(
        self,
        clip: Clip,
        *,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[ClassifyVideoKeywords],
    ) -> VideoClassification:
        """Finds the most probable classes of a clip.

        Args:
            clip: an MP4, WebM or GIF file: its bytes, its path, or a file object; or its frames in order, each as for ``segment``.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts together.
            keywords: ``top_k``, ``queries``, ``return_pictures``, ``priority``; see ``ClassifyVideoKeywords``.

        Raises:
            OSError: a file cannot be read.
        """
        request = video_convert.classify_video_request(clip, model, version, keywords)
        answer = self._calls.unary(methods.CLASSIFY_VIDEO, request, timeout)
        return video_convert.video_classification_from_proto(answer)

    def classify_video_many(
        self,
        clips: Iterable[Clip],
        *,
        max_in_flight: int = 4,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[ClassifyVideoKeywords],
    ) -> Generator[VideoClassification | AttnserveError]:
        """Classifies many clips concurrently over one connection; returns an iterator over answers or errors, in their order.

        Files are read as by ``caption_many``.

        Args:
            clips: as for ``classify_video``.
            max_in_flight: maximum number of concurrent calls, at least 1.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts of one clip.
            keywords: as for ``classify_video``.
        """
        requests = convert.requests_of(lambda clip: video_convert.classify_video_request(clip, model, version, keywords), clips)
        outcomes = many(self._calls, methods.CLASSIFY_VIDEO, requests, timeout, max_in_flight)
        return values(outcomes, video_convert.video_classification_from_proto, is_raising=False)

    def generate_image(
        self,
        class_name: str,
        *,
        model: str = "",
        version: str = "",
        timeout: float | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Generation:
        """Generates images of a class.

        Args:
            class_name: name of the class; the error for an unknown one lists the model's classes.
            model: id of the model; empty for the server's default.
            version: of the model; empty for the newest.
            timeout: seconds for all attempts together.
            keywords: ``count``, ``seed``, ``grid``, ``attention_at``, ``priority``; see ``GenerateKeywords``.
        """
        request = generation_convert.generate_request(class_name, model, version, keywords)
        return generation_convert.generation_from_proto(self._calls.unary(methods.GENERATE_IMAGE, request, timeout))
