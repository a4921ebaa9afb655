# SPDX-License-Identifier: Apache-2.0
"""Scores translations and captions against references with sacreBLEU. Needs the extra ``evaluate``; makes no remote calls."""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnserve_client.errors import ToolError

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus scores, from 0 to 100.

    Attributes:
        bleu: ``case:mixed|tok:13a``.
        bleu_lc: ``case:lc|tok:13a``.
        chrf: chrF2.
        signature: sacreBLEU's signature of ``bleu``; that of ``bleu_lc`` differs only in the case.
    """

    bleu: float
    bleu_lc: float
    chrf: float
    signature: str


def read_lines(path: Path, limit: int | None = None) -> list[str]:
    """Returns the stripped lines of a text file.

    Args:
        path: UTF-8; gzip if the name ends in ``.gz``.
        limit: maximum number of lines; None for all.

    Raises:
        ToolError: the file cannot be read, or a line is not UTF-8.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8", errors="surrogateescape") as file
        ):
            lines = [line.strip() for line in itertools.islice(file, limit)]
    except (OSError, EOFError) as error:
        raise ToolError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise ToolError(f"cannot read {path}: line {number} is not UTF-8") from error
    return lines


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """Returns the scores of hypotheses against one reference each.

    Raises:
        ToolError: sacreBLEU is not installed.
    """
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, bleu_lc = (BLEU(lowercase=lowercase, tokenize="13a") for lowercase in (False, True))
    value, value_lc, chrf = (metric.corpus_score(hypotheses, [references]).score for metric in (bleu, bleu_lc, CHRF()))
    return Scores(bleu=value, bleu_lc=value_lc, chrf=chrf, signature=str(bleu.get_signature()))


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Corpus scores of captions, from 0 to 100, in lower case and without punctuation.

    Attributes:
        bleu_1: precision of single words, with the brevity penalty.
        bleu_4: BLEU with n-grams up to 4 words.
        signature: sacreBLEU's signature of ``bleu_4``.
    """

    bleu_1: float
    bleu_4: float
    signature: str


_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_APART = re.compile(r"\s+'s\b")


def caption_words(text: str) -> str:
    """Returns a caption's words in lower case, without punctuation; a possessive "'s" belongs to its word."""
    return " ".join(_WORD.findall(_APART.sub("'s", text.lower())))


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Returns the scores of captions against any number of references each.

    Raises:
        ToolError: sacreBLEU is not installed.
    """
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU

    words = [caption_words(each) for each in captions]
    count = max(map(len, references))
    # A missing caption is replaced by the first one, which changes no n-gram's maximum count over the references.
    by_rank = [[caption_words(each[rank if rank < len(each) else 0]) for each in references] for rank in range(count)]
    unigrams, bleu = (BLEU(tokenize="none", force=True, max_ngram_order=order) for order in (1, 4))
    value_1, value_4 = (metric.corpus_score(words, by_rank).score for metric in (unigrams, bleu))
    return CaptionScores(bleu_1=value_1, bleu_4=value_4, signature=str(bleu.get_signature()))


BleuParts = NDArray[np.int64]
"""What corpus BLEU is a function of, a row for each answer: right and all n-grams up to 4, length, and the reference's length."""
_ORDER, _DRAWS = 4, 1000


def translation_parts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> BleuParts:
    """Returns the parts of the score ``bleu_lc``: int64 (answers, 10)."""
    from sacrebleu.metrics.bleu import BLEU

    return _parts(BLEU(lowercase=True, tokenize="13a", effective_order=True), hypotheses, references)


def caption_parts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> BleuParts:
    """Returns the parts of the score ``bleu_4``: int64 (captions, 10)."""
    from sacrebleu.metrics.bleu import BLEU

    words = [[caption_words(text) for text in each] for each in references]
    return _parts(BLEU(tokenize="none", force=True, effective_order=True), [caption_words(each) for each in captions], words)


def _parts(metric: BLEU, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> BleuParts:
    scores = [metric.sentence_score(*each) for each in zip(hypotheses, references, strict=True)]
    return np.array([[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in scores], np.int64)


@dataclass(frozen=True, slots=True)
class BleuGain:
    """Corpus scores of two models on the same data, from 0 to 100, and their difference.

    Attributes:
        bleu: of the model.
        against_bleu: of the model that it is compared with.
        gain: the difference.
        interval: its 95 % interval.
    """

    bleu: float
    against_bleu: float
    gain: float
    interval: tuple[float, float]


def bleu_gain(ours: BleuParts, theirs: BleuParts) -> BleuGain:
    """Returns the difference of two models with its interval by paired bootstrap (Koehn 2004, section 4), 1000 draws.

    Args:
        ours: parts of the answers of a model.
        theirs: parts of the answers of another model to the same requests, in the same order.
    """
    count = len(ours)
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _DRAWS)  # (draws, answers)
    gains = [_bleu(one) - _bleu(other) for one, other in zip(times @ ours, times @ theirs, strict=True)]
    bleu, against = _bleu(ours.sum(0)), _bleu(theirs.sum(0))
    low, high = np.quantile(gains, (0.025, 0.975))
    return BleuGain(round(bleu, 2), round(against, 2), round(bleu - against, 2), (round(float(low), 2), round(float(high), 2)))


def _bleu(parts: NDArray[np.int64]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    right, every, (length, reference) = parts[:_ORDER].tolist(), parts[_ORDER : 2 * _ORDER].tolist(), parts[2 * _ORDER :].tolist()
    return BLEU.compute_bleu(right, every, length, reference, smooth_method="exp").score


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Sources of similar length, in words.

    Attributes:
        least: number of words of the shortest source.
        most: number of words of the longest source.
        members: indices of the sources.
    """

    least: int
    most: int
    members: list[int]

    @property
    def label(self) -> str:
        """The range of lengths, such as "8-9"."""
        return f"{self.least}-{self.most}" if self.least < self.most else str(self.least)


def length_bins(sources: Sequence[str], num_bins: int) -> list[LengthBin]:
    """Groups sources by their number of words, which white space separates.

    Sources of equal length stay in one group; the sizes are otherwise as equal as possible. There may be fewer groups than
    ``num_bins``.
    """
    lengths = [len(source.split()) for source in sources]
    order = sorted(range(len(sources)), key=lengths.__getitem__)
    bins: list[LengthBin] = []
    for members in _portions(order, lengths, num_bins):
        bins.append(LengthBin(lengths[members[0]], lengths[members[-1]], members))
    return bins


def _portions(order: list[int], lengths: Sequence[int], num_portions: int) -> Iterator[list[int]]:
    """Splits at the change of length nearest to each even split."""
    changes = [at for at in range(1, len(order)) if lengths[order[at]] != lengths[order[at - 1]]]
    wanted = [len(order) * part / num_portions for part in range(1, num_portions)]
    cuts = sorted({min(changes, key=lambda at: abs(at - target)) for target in wanted}) if changes else []
    for begin, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        yield order[begin:end]


def require_sacrebleu() -> None:
    """Raises a ``ToolError`` that names the extra if sacreBLEU is not installed; called before anything is translated."""
    try:
        import sacrebleu  # noqa: F401
    except ModuleNotFoundError as error:
        raise ToolError(f'evaluating needs {error.name}: pip install "attnserve[evaluate]"') from error
