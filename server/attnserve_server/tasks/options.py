# SPDX-License-Identifier: Apache-2.0
"""Validates text and options of tasks that generate text.

Checks that need the tokenizer come last: the prefix (:func:`with_prefix`) and the lengths of sentences.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from attnserve_server.errors import InvalidRequest, SequenceTooLong
from attnserve_server.request import MAX_PRIORITY, MIN_PRIORITY, AttentionDetail, DecodeOptions, Sampling
from attnserve_server.tasks.characters import has_visible
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.joining import Tokenized
from attnserve_server.tasks.sentences import Sentence
from attnserve_server.tasks.text import Prefix

MAX_PENALTY = 10.0
"""Maximum length and coverage penalty: far above any useful value, and the length to this power is finite."""

MIN_FACTOR, MAX_FACTOR = 1e-6, 100.0
"""Bounds of temperature and repetition penalty: scores divided or multiplied by them are finite in float32."""

MAX_SENTENCES = 64
"""Maximum sentences of one text: each is a request of its own, and one text must not fill the queue."""

_NEED_SCORES = ("min_tokens", "no_repeat_ngram_size", "repetition_penalty", "sampling")
"""Options that change or use the scores of all pieces, unless they have their neutral value."""
_NEUTRAL = DecodeOptions()


class AskedSampling(msgspec.Struct, frozen=True, gc=False):
    """Sampling options of a client; None if absent."""

    temperature: float | None = None
    top_k: int = 0
    top_p: float | None = None
    seed: int | None = None


class AskedOptions(msgspec.Struct, frozen=True, gc=False):
    """Options of a client, not validated; None if absent."""

    beam_size: int | None = None
    num_hypotheses: int | None = None
    length_penalty: float | None = None
    coverage_penalty: float | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float | None = None
    sampling: AskedSampling | None = None
    prefix: str = ""
    attention: AttentionDetail | int = AttentionDetail.NONE
    """A plain ``int`` is an unknown value."""
    omit_score: bool = False


def check_text(text: str, max_chars: int) -> str:
    """Checks and returns the text.

    Raises:
        InvalidRequest: it has no visible character, or is longer than the server's limit.
    """
    if len(text) > max_chars:
        raise InvalidRequest(f"text must have at most {max_chars} characters; it has {len(text)}", field="text")
    if not has_visible(text):
        raise no_text()
    return text


def no_text() -> InvalidRequest:
    """Returns the error for a text in which nothing is left to translate."""
    return InvalidRequest("text must not be empty, or only white space and invisible characters", field="text")


def check_prefix(prefix: str, max_chars: int, beside: str = " beside this text") -> str:
    """Checks and returns the prefix, which may be empty.

    Raises:
        InvalidRequest: it has only invisible characters, or is longer than the server's limit minus the text.
    """
    if len(prefix) > max_chars:
        raise _refused("prefix", f"must have at most {max_chars} characters{beside}; it has {len(prefix)}")
    if prefix and not has_visible(prefix):
        raise _refused("prefix", "must not be only white space and invisible characters; leave it empty for none")
    return prefix


def check_priority(priority: int) -> int:
    """Checks and returns the priority.

    Raises:
        InvalidRequest: the priority is out of range.
    """
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidRequest(f"priority must be from {MIN_PRIORITY} to {MAX_PRIORITY}; it is {priority}", field="priority")
    return priority


def check_sentences(sentences: Sequence[Sentence]) -> Sequence[Sentence]:
    """Checks and returns the sentences of one text.

    Raises:
        InvalidRequest: there are too many.
    """
    if len(sentences) > MAX_SENTENCES:
        raise InvalidRequest(f"text must have at most {MAX_SENTENCES} sentences; it has {len(sentences)}", field="text")
    return sentences


def check_lengths(sources: Sequence[Tokenized], model: Model) -> None:
    """Checks the lengths of several sentences before any is submitted; the front checks a single one.

    Raises:
        SequenceTooLong: names the first sentence with too many pieces.
    """
    for number, source in enumerate(sources if len(sources) > 1 else (), 1):
        num_pieces = len(source.tokens) - 1
        if num_pieces > model.max_source_tokens:
            raise SequenceTooLong(
                f"sentence {number} of the text has {num_pieces} pieces; {model.id} takes {model.max_source_tokens}", field="text"
            )


def decode_options(options: AskedOptions, model: Model) -> DecodeOptions:
    """Returns validated options without the prefix; absent ones get the model's defaults.

    Raises:
        InvalidRequest: names the first field that is out of range, or that the model does not support.
    """
    beam_size = _in_range("beam_size", 1 if options.beam_size is None else options.beam_size, (1, model.max_beam_size))
    sampling = _sampling(options, beam_size)
    most, what = (beam_size, " (beam_size)") if sampling is None else (model.max_beam_size, "")
    asked = 1 if options.num_hypotheses is None else options.num_hypotheses
    limit = model.max_target_tokens
    max_tokens = _in_range("max_tokens", limit if options.max_tokens is None else options.max_tokens, (1, limit))
    converted = DecodeOptions(
        beam_size=beam_size,
        num_hypotheses=_in_range("num_hypotheses", asked, (1, most), what),
        length_penalty=_penalty("length_penalty", options.length_penalty, 1.0),
        coverage_penalty=_coverage_penalty(options, model),
        max_tokens=max_tokens,
        min_tokens=_in_range("min_tokens", options.min_tokens, (0, max_tokens), " (max_tokens)"),
        no_repeat_ngram_size=_in_range("no_repeat_ngram_size", options.no_repeat_ngram_size, (0, limit)),
        repetition_penalty=_repetition_penalty(options),
        sampling=sampling,
        attention=_attention(options, model),
        omit_score=_omit_score(options, beam_size),
    )
    _check_scores(converted, model)
    return converted


def with_prefix(options: DecodeOptions, prefix: Prefix, model: Model) -> DecodeOptions:
    """Returns the options with a prefix, from a text that is not empty.

    Raises:
        InvalidRequest: the prefix has no pieces, has pieces outside the vocabulary, or reaches ``max_tokens``.
    """
    if not model.gives_scores:
        raise _needs_scores("prefix", model)
    if prefix.unknown:
        shown = ", ".join(map(str, prefix.unknown[:5]))  # positions, since texts of a client are in no message
        raise _refused("prefix", f"has characters that the vocabulary of {model.id} lacks, at {shown} (counted from 0)")
    if not prefix.tokens:
        raise _refused("prefix", "is only white space to this model's tokenizer; leave it empty for none")
    if len(prefix.tokens) >= options.max_tokens:
        raise _refused("prefix", f"must have fewer pieces than max_tokens ({options.max_tokens}); it has {len(prefix.tokens)}")
    return msgspec.structs.replace(options, prefix=tuple(prefix.tokens))


def of_sentence(options: DecodeOptions, index: int) -> DecodeOptions:
    """Returns the options of one sentence of a text: only the first has the prefix, and each has its own seed."""
    if index == 0:
        return options
    sampling = options.sampling
    if sampling is not None:
        sampling = msgspec.structs.replace(sampling, seed=(sampling.seed + index * 0x9E3779B97F4A7C15) % 2**64)
    return msgspec.structs.replace(options, prefix=(), sampling=sampling)


def _sampling(options: AskedOptions, beam_size: int) -> Sampling | None:
    asked = options.sampling
    if asked is None:
        return None
    if beam_size > 1:
        raise _refused("sampling", f"needs options.beam_size 1; it is {beam_size}")
    temperature = 1.0 if asked.temperature is None else asked.temperature
    if temperature == 0.0:
        raise _refused("sampling.temperature", "must be above 0; omit sampling for the most probable piece")
    _check_factor("sampling.temperature", temperature)
    top_p = 1.0 if asked.top_p is None else asked.top_p
    if not 0.0 < top_p <= 1.0:
        raise _refused("sampling.top_p", f"must be a number above 0 and at most 1; it is {top_p:g}")
    if asked.seed is None:
        return Sampling(secrets.randbits(64), temperature, asked.top_k, top_p, is_drawn=True)
    return Sampling(asked.seed, temperature, asked.top_k, top_p)


def _omit_score(options: AskedOptions, beam_size: int) -> bool:
    if options.omit_score and (beam_size > 1 or options.sampling is not None):
        raise _refused("omit_score", "needs options.beam_size 1 and no options.sampling")
    return options.omit_score


def _penalty(name: str, asked: float | None, default: float) -> float:
    value = default if asked is None else asked
    if not 0.0 <= value <= MAX_PENALTY:  # raises for NaN too
        raise _refused(name, f"must be a number from 0 to {MAX_PENALTY:g}; it is {value:g}")
    return value


def _coverage_penalty(options: AskedOptions, model: Model) -> float:
    value = _penalty("coverage_penalty", options.coverage_penalty, 0.0)
    if value and not model.gives_attention:
        raise _refused(
            "coverage_penalty", f"needs attention, which {model.id} does not give (variant {model.variant}); leave it out"
        )
    return value


def _repetition_penalty(options: AskedOptions) -> float:
    value = 1.0 if options.repetition_penalty is None else options.repetition_penalty
    _check_factor("repetition_penalty", value)
    return value


def _check_factor(name: str, value: float) -> None:
    # As a float32, MIN_FACTOR is slightly smaller than as a float64. Raises for NaN too.
    if not MIN_FACTOR * (1.0 - 2.0**-20) <= value <= MAX_FACTOR:
        raise _refused(name, f"must be a number from {MIN_FACTOR:g} to {MAX_FACTOR:g}; it is {value:g}")


def _attention(options: AskedOptions, model: Model) -> AttentionDetail:
    detail = options.attention
    if not isinstance(detail, AttentionDetail):
        raise _refused("return_attention", f"has the unknown value {detail}")
    if detail is not AttentionDetail.NONE and not model.gives_attention:
        raise _refused("return_attention", f"needs attention, which {model.id} does not give (variant {model.variant})")
    return detail


def _check_scores(options: DecodeOptions, model: Model) -> None:
    for name in _NEED_SCORES:
        if getattr(options, name) != getattr(_NEUTRAL, name) and not model.gives_scores:
            raise _needs_scores(name, model)


def _needs_scores(name: str, model: Model) -> InvalidRequest:
    return _refused(name, f"needs the scores of all pieces, which {model.id} does not give (variant {model.variant}); leave it out")


def _in_range(name: str, value: int, bounds: tuple[int, int], what: str = "") -> int:
    lower, upper = bounds
    if not lower <= value <= upper:
        raise _refused(name, f"must be from {lower} to {upper}{what}; it is {value}")
    return value


def _refused(name: str, text: str) -> InvalidRequest:
    field = f"options.{name}"
    return InvalidRequest(f"{field} {text}", field=field)
