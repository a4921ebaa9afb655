# SPDX-License-Identifier: Apache-2.0
"""The reference's answer to a request: translates the server's options to those of the reference searches."""

from __future__ import annotations

from attnserve_server.request import DecodeOptions
from tests.reference.beam_search import ALL_HEADS, BEGIN_ID, END_ID, EncoderDecoder, Heads, Ranking, SearchResult, beam_search
from tests.reference.rules import Rules
from tests.reference.sampling import sample


def reference_answer(
    model: EncoderDecoder,
    source: list[int],
    options: DecodeOptions,
    *,
    heads: Heads = ALL_HEADS,
    begin_id: int = BEGIN_ID,
    end_id: int = END_ID,
) -> SearchResult:
    """Searches or samples, as the options say; ``heads`` are those of the manifest."""
    rules = Rules(options.prefix, options.repetition_penalty, options.no_repeat_ngram_size, options.min_tokens)
    if options.sampling is not None:
        return sample(
            model,
            source,
            options.sampling,
            max_tokens=options.max_tokens,
            num_hypotheses=options.num_hypotheses,
            ranking=Ranking(options.length_penalty, options.coverage_penalty, heads),
            rules=rules,
            begin_id=begin_id,
            end_id=end_id,
        )
    return beam_search(
        model,
        source,
        beam_size=options.beam_size,
        max_tokens=options.max_tokens,
        num_hypotheses=options.num_hypotheses,
        length_penalty=options.length_penalty,
        coverage_penalty=options.coverage_penalty,
        heads=heads,
        rules=rules,
        begin_id=begin_id,
        end_id=end_id,
    )
