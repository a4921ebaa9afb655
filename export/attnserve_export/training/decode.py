# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding in PyTorch, for scores during training. It runs the whole prefix at each step, which is slow."""

from __future__ import annotations

import sentencepiece
import torch

from attnserve_export.models.interface import TranslationModel
from attnserve_export.training.data import BEGIN_ID, END_ID, pad


@torch.no_grad()
def greedy_translations(
    model: TranslationModel,
    tokenizer: sentencepiece.SentencePieceProcessor,
    sentences: list[str],
    *,
    max_pieces: int = 80,
    batch: int = 128,
) -> list[str]:
    """Translates ``sentences`` with ``model`` (in evaluation mode), in their order."""
    device = model.output_weight.device
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
    texts = [""] * len(sentences)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        src = pad([[*tokenizer.encode(sentences[index]), END_ID] for index in chosen]).to(device)
        memory = model.encode(src)
        tgt = torch.full((len(chosen), 1), BEGIN_ID, device=device)
        for _ in range(max_pieces):
            logits = model.project(model.decode(memory, src, tgt)[0][:, -1])
            tgt = torch.cat([tgt, logits.argmax(-1, keepdim=True)], 1)
            if bool((tgt == END_ID).any(1).all()):
                break
        for index, row in zip(chosen, tgt[:, 1:].tolist(), strict=True):
            texts[index] = tokenizer.decode(row[: row.index(END_ID)] if END_ID in row else row)
    return texts
