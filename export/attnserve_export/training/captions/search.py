# SPDX-License-Identifier: Apache-2.0
"""Beam search in PyTorch over a batch of photos, for selection. In production the server searches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnserve_export.models.show_attend_tell import Annotations, ShowAttendTell, Step
from attnserve_export.training.data import BEGIN_ID, END_ID


@torch.no_grad()
def caption_tokens(
    model: ShowAttendTell, features: Tensor, beam_size: int, *, length_penalty: float = 1.0, max_tokens: int = 30
) -> list[list[int]]:
    """Returns the best caption of each photo, without its end symbol, by sum of log-probabilities / length ** length_penalty.

    Args:
        model: in evaluation mode.
        features: (B, L, D), from :meth:`ShowAttendTell.features`.
        beam_size: number of hypotheses.
        length_penalty: exponent of the length.
        max_tokens: maximum length of a caption.
    """
    source = model.source(model.annotate(features))
    found = [
        _search(model, Annotations(memory[None], key[None]), beam_size, length_penalty, max_tokens)
        for memory, key in zip(source.memory, source.key, strict=True)
    ]
    return found


def _search(model: ShowAttendTell, source: Annotations, beam_size: int, length_penalty: float, max_tokens: int) -> list[int]:
    hidden, cell = model.initial_state(source.memory.mean(1))
    tokens, scores, ended = [[BEGIN_ID]], torch.zeros(1), list[tuple[float, list[int]]]()
    for length in range(1, max_tokens + 2):
        rows = Annotations(source.memory.expand(len(tokens), -1, -1), source.key.expand(len(tokens), -1, -1))
        step, logits = _step(model, torch.tensor([row[-1] for row in tokens]), (hidden, cell), rows)
        total = scores[:, None] + logits.log_softmax(-1)
        best, places = total.flatten().topk(2 * beam_size)
        parents, following = places // logits.shape[1], places % logits.shape[1]
        live: list[tuple[float, int, int]] = []
        found = zip(best.tolist(), parents.tolist(), following.tolist(), strict=True)
        for rank, (score, parent, token) in enumerate(found):
            if rank >= beam_size and token == END_ID:
                continue  # a finished hypothesis outside the beam
            if token == END_ID or length > max_tokens:
                ended.append((score / length**length_penalty, tokens[parent][1:]))
            elif len(live) < beam_size:
                live.append((score, parent, token))
            if len(ended) >= beam_size:
                return max(ended)[1]
        index = torch.tensor([parent for _, parent, _ in live])
        hidden, cell = step.hidden[index], step.cell[index]
        tokens = [[*tokens[parent], token] for _, parent, token in live]
        scores = torch.tensor([score for score, _, _ in live])
    return max(ended)[1]


@torch.no_grad()
def greedy_tokens(model: ShowAttendTell, features: Tensor, max_tokens: int = 30) -> list[list[int]]:
    """Returns each photo's caption by greedy search, without its end symbol."""
    source = model.source(model.annotate(features))
    hidden, cell = model.initial_state(source.memory.mean(1))
    token, rows = torch.full((len(features),), BEGIN_ID), list[Tensor]()
    for _ in range(max_tokens):
        step, logits = _step(model, token, (hidden, cell), source)
        token, hidden, cell = logits.argmax(-1), step.hidden, step.cell
        rows.append(token)
    return [until_end(row) for row in torch.stack(rows, 1).tolist()]


def _step(model: ShowAttendTell, token: Tensor, state: tuple[Tensor, Tensor], source: Annotations) -> tuple[Step, Tensor]:
    """Runs one step from the last tokens (B) and h and c (B, n) of each row; returns it and the next logits (B, V)."""
    embedded = model.embed(token[:, None])[:, 0]
    step = model.step(model.token_gates(embedded), *state, source)
    return step, model.next_logits(model.readout(model.deep_token(embedded), step.hidden, step.context))


def until_end(tokens: Sequence[int]) -> list[int]:
    """Returns the tokens before the first end symbol."""
    row = list(tokens)
    return row[: row.index(END_ID)] if END_ID in row else row
