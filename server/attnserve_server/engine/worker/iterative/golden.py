# SPDX-License-Identifier: Apache-2.0
"""Golden answers of models that decode step by step: the manifest's ``GoldenAnswers``, asked so that every graph is run."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

from google.protobuf import json_format

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.engine.worker.golden import Golden
from attnserve_server.errors import BundleError
from attnserve_server.request import AttentionDetail, DecodeOptions, ImageSource, SequenceOutcome, SequencePayload, Source


def golden_groups(bundle: Bundle) -> list[list[Golden]]:
    """What the kind ``ITERATIVE`` names: the questions, by beam size.

    The first input is asked again with attention, greedily without a score, and, for beam sizes whose rows form blocks, beside a
    greedy search, where other graphs run then.

    Raises:
        BundleError: the file cannot be read, or says nothing of the variant that is served.
    """
    name = bundle.manifest.golden_file
    try:
        answers = json_format.Parse(bundle.read(name), manifest_pb2.GoldenAnswers())
        sources = [_source(bundle.manifest, number, each) for number, each in enumerate(answers.inputs, 1)]
    except (OSError, ValueError, json_format.ParseError, zlib.error) as error:
        raise BundleError(str(bundle.folder), [f"{name}: {error}"]) from error
    tolerance = {each.variant: each.score for each in answers.tolerances}.get(bundle.variant.name)
    if tolerance is None or not sources:
        raise BundleError(str(bundle.folder), [f"{name}: no golden answers for variant {bundle.variant.name}"])
    groups: list[list[Golden]] = []
    blocks, greedy = {step.block_rows for step in bundle.variant.steps}, list[_Asked]()
    for beam_size in sorted({answer.beam_size for each in answers.inputs for answer in each.answers}):
        asked = [
            _Asked(f"input {number}, beam size {beam_size}", source, answer, tolerance)
            for number, (source, each) in enumerate(zip(sources, answers.inputs, strict=True), 1)
            for answer in each.answers
            if answer.beam_size == beam_size
        ]
        groups.append([each.golden() for each in asked])
        if len({step.gives_attention for step in bundle.variant.steps}) > 1:
            groups.append([asked[0].golden(", with attention", attention=AttentionDetail.MEAN)])
        if beam_size == 1:
            groups.append([asked[0].golden(", without score", omit_score=True)])
            greedy = asked[:1]
        if beam_size in blocks:
            groups.append([each.golden(", one beside the other") for each in (asked[0], *greedy)])
    return groups


def _source(manifest: manifest_pb2.Manifest, number: int, asked: manifest_pb2.GoldenInput) -> Source:
    if not asked.image and not asked.tokens:
        raise ValueError(f"input {number} has no source")
    if not asked.image:
        return list(asked.tokens)
    image = manifest.image
    size, decompressor = 3 * image.height * image.width, zlib.decompressobj()
    pixels = decompressor.decompress(asked.image, size + 1)  # a byte more shows that there are too many
    if len(pixels) != size or not decompressor.eof:
        more = "at least " if len(pixels) > size else ""
        raise ValueError(f"an image has {more}{len(pixels)} bytes of pixels, not {size}")
    return ImageSource(pixels, image.grid_height * image.grid_width)


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str
    source: Source
    answer: manifest_pb2.GoldenAnswer
    tolerance: float

    def golden(self, how: str = "", *, attention: AttentionDetail = AttentionDetail.NONE, omit_score: bool = False) -> Golden:
        """The question, asked with further options."""
        answer = self.answer
        options = DecodeOptions(answer.beam_size, max_tokens=answer.max_tokens, attention=attention, omit_score=omit_score)
        score = 0.0 if omit_score else answer.score
        difference = functools.partial(_difference, list(answer.tokens), score, self.tolerance)
        return Golden(self.name + how, SequencePayload.of(self.source, options), difference)


def _difference(tokens: list[int], score: float, tolerance: float, outcome: SequenceOutcome) -> str:
    best = outcome.hypotheses[0]
    if best.tokens != tokens:
        return f"expected tokens {tokens}, got {best.tokens}"
    if not abs(best.score - score) <= tolerance:  # NaN is not
        return f"expected score {score:.4f} within {tolerance:g}, got {best.score:.4f}"
    return ""
