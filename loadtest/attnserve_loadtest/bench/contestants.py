# SPDX-License-Identifier: Apache-2.0
"""The two sides: the engine of a worker, in this process, and CTranslate2's translator. Both take and return token ids."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ctranslate2
import sentencepiece

from attnserve_loadtest.bench.ctranslate2_model import pieces_of
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.engine.worker.iterative.factory import make_loop
from attnserve_server.request import DecodeOptions, Done, Failed, sequence_work
from attnserve_server.scheduling.scheduler import SchedulerConfig

Tokens = list[int]
COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}
"""Our variants, and CTranslate2's names of them."""


class Contestant(Protocol):
    """Something that translates token ids."""

    def translate(self, sources: Sequence[Tokens]) -> list[Tokens]:
        """Translates sources, each with its end symbol, to their best hypotheses, without end symbols."""
        ...

    def processor_seconds(self) -> float:
        """Returns the processor time of its processes since they started, in seconds; the other sides' too, while they run."""
        ...


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Texts to tokens and back, by the bundle's tokenizer."""

    processor: sentencepiece.SentencePieceProcessor
    end_id: int

    @classmethod
    def of(cls, bundle: Bundle) -> Vocabulary:
        """The tokenizer of a bundle."""
        model = bundle.read(bundle.manifest.vocabulary.sentencepiece_file)
        return cls(sentencepiece.SentencePieceProcessor(model_proto=model), bundle.manifest.vocabulary.end_id)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens with their end symbol."""
        return [[*self.processor.encode(text), self.end_id] for text in texts]

    def decode(self, tokens: Sequence[Tokens]) -> list[str]:
        """Texts."""
        return [self.processor.decode(each) for each in tokens]


class Engine:
    """The engine loop of a worker, offline: all requests at once, the longest source first.

    Greedy answers have no score, as those of the peer unless it is requested.

    Args:
        folder: of the bundle.
        variant: by name.
        num_slots: rows that decode at once.
        beam_size: of every request.
    """

    def __init__(self, folder: Path, variant: str, num_slots: int, beam_size: int) -> None:
        bundle = load_bundle(folder, variant=variant)
        self._end_id, self._options = (
            bundle.manifest.vocabulary.end_id,
            DecodeOptions(beam_size=beam_size, omit_score=beam_size == 1),
        )
        self._engine = make_loop(bundle, SchedulerConfig(num_slots), time.monotonic)
        self._engine.start()

    def processor_seconds(self) -> float:
        """See :class:`Contestant`."""
        return time.process_time()

    def translate(self, sources: Sequence[Tokens]) -> list[Tokens]:
        """See :class:`Contestant`."""
        for index in sorted(range(len(sources)), key=lambda index: -len(sources[index])):
            self._engine.submit(sequence_work(index, sources[index], self._options))
        answers: dict[int, Tokens] = {}
        while self._engine.has_work:
            for event in self._engine.step():
                if isinstance(event, Failed):
                    raise RuntimeError(event.message)
                if isinstance(event, Done):
                    tokens = event.outcome.hypotheses[0].tokens
                    answers[event.request_id] = tokens[:-1] if tokens[-1] == self._end_id else tokens
        self._engine.stats()
        return [answers[index] for index in range(len(sources))]


class Replicas:
    """Several such engines, each in its own process, like workers.

    Args:
        folder: of the bundle.
        variant: by name.
        num_slots: rows per process.
        beam_size: of every request.
        count: processes.
    """

    def __init__(self, folder: Path, variant: str, num_slots: int, beam_size: int, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Any] = []
        self._seconds = [0.0] * count
        for _ in range(count):
            ours, theirs = context.Pipe()
            arguments = (theirs, folder, variant, num_slots, beam_size)
            context.Process(target=_serve_replica, args=arguments, daemon=True).start()
            theirs.close()
            self._pipes.append(ours)

    def processor_seconds(self) -> float:
        """See :class:`Contestant`."""
        return sum(self._seconds) + time.process_time()

    def translate(self, sources: Sequence[Tokens]) -> list[Tokens]:
        """See :class:`Contestant`; the sources are dealt out by length."""
        order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
        hands = [order[start :: len(self._pipes)] for start in range(len(self._pipes))]
        for pipe, hand in zip(self._pipes, hands, strict=True):
            pipe.send([sources[index] for index in hand])
        answers: dict[int, Tokens] = {}
        for index, (pipe, hand) in enumerate(zip(self._pipes, hands, strict=True)):
            translated, self._seconds[index] = pipe.recv()
            answers.update(zip(hand, translated, strict=True))
        return [answers[index] for index in range(len(sources))]


def _serve_replica(pipe: Any, folder: Path, variant: str, num_slots: int, beam_size: int) -> None:
    engine = Engine(folder, variant, num_slots, beam_size)
    with contextlib.suppress(EOFError):
        while True:
            pipe.send((engine.translate(pipe.recv()), time.process_time()))


class Peer:
    """CTranslate2 with one thread per replica; it sorts and batches the sentences.

    Args:
        folder: the converted model.
        bundle: the bundle that the model was converted from.
        variant: our name of its compute type.
        batch_size: maximum number of sentences in a batch.
        beam_size: of every request.
        replicas: models that run side by side (``inter_threads``).
    """

    def __init__(self, folder: Path, bundle: Bundle, variant: str, batch_size: int, beam_size: int, replicas: int = 1) -> None:
        pieces = pieces_of(bundle)
        self._pieces, self._ids = pieces, {piece: index for index, piece in enumerate(pieces)}
        self._batch_size, self._beam_size = batch_size, beam_size
        self._max_tokens = bundle.manifest.limits.max_target_tokens
        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=COMPUTE_TYPES[variant], inter_threads=replicas, intra_threads=1
        )

    def processor_seconds(self) -> float:
        """See :class:`Contestant`."""
        return time.process_time()

    def translate(self, sources: Sequence[Tokens]) -> list[Tokens]:
        """See :class:`Contestant`."""
        pieces = [[self._pieces[token] for token in source[:-1]] for source in sources]
        results = self._translator.translate_batch(
            pieces,
            max_batch_size=self._batch_size,
            beam_size=self._beam_size,
            max_decoding_length=self._max_tokens,
        )
        return [[self._ids[piece] for piece in result.hypotheses[0]] for result in results]
