# SPDX-License-Identifier: Apache-2.0
"""Show, Attend and Tell: Neural Image Caption Generation with Visual Attention (Xu et al. 2015), https://arxiv.org/abs/1502.03044.

What differs from the paper:

* The annotations are the last 7 x 7 grid of EfficientNet-Lite0 instead of VGG's 14 x 14, each normalised (Ba et al. 2016).
* One embedding matrix serves input and output (L_o), scaled by the square root of its width as an embedding; so the last token's
  term of equation 7, E y, first passes a linear layer: otherwise the model would repeat the last word.
* f_init are single layers with tanh. Dropout on annotations (whole channels of them), embeddings and the output layer's input.
* The output has a bias for each word, initialised to the logarithm of its share of the training captions.
* Hard attention is trained by the rule of section 4.1; at inference it selects the most probable location instead of drawing one.
* Uniform attention, the twin that the paper's claim is tested against, gives all locations the same weight at each step: its
  alignment scores are 0.
* Sizes: the paper's embeddings and states have up to 1000 dimensions.

Symbols of the paper and their names here: a_i -> memory; E -> ``embedding``; f_init,c, f_init,h -> ``initial``; f_att ->
``align_state``, ``align_memory``, ``align_score``; f_beta -> ``gate``; T of equation 1 -> ``token_gates``, ``state_gates``,
``context_gates``; L_h, L_z -> ``deep_state``, ``deep_context`` (and ``deep_token``); L_o -> ``embedding`` once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from attnserve_export.layers import efficientnet
from attnserve_export.layers.attention import additive_attention
from attnserve_export.layers.dropout import PooledDropout
from attnserve_export.layers.output import TiedModel
from attnserve_export.layers.recurrent import initialise_recurrent, lstm_step

NUM_CELLS = efficientnet.grid_size() ** 2
"""Number of annotations of an image, L of the paper, in row-major order."""
NO_WORDS = (0, 1, 2)
"""Padding, the unknown symbol, and the begin symbol: no caption contains them."""
_LOWEST = -1e4


@dataclass(frozen=True, slots=True)
class ShowAttendTellConfig:
    """Sizes (m, n and the alignment's), dropout, and the kind of attention of section 4."""

    vocab_size: int
    d_embedding: int = 256
    d_hidden: int = 384
    d_alignment: int = 256
    dropout: float = 0.4
    annotation_dropout: float = 0.2
    attention: Literal["soft", "hard", "uniform"] = "soft"

    def __post_init__(self) -> None:
        if self.attention not in ("soft", "hard", "uniform"):
            raise ValueError(f"attention must be soft, hard or uniform, not {self.attention!r}")


@dataclass(frozen=True, slots=True)
class Annotations:
    """The decoder's view of an image: a_i (B, L, D) and 2 W a_i (B, L, A)."""

    memory: Tensor
    key: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One step: h_t and c_t (B, n), the gated context (B, D), the weights (B, L), and log p(s_t) (B) if s_t was drawn."""

    hidden: Tensor
    cell: Tensor
    context: Tensor
    weights: Tensor
    log_drawn: Tensor | None = None


class ShowAttendTell(TiedModel):
    """Encoder and decoder of section 3. Token id 0 is padding."""

    no_words: Tensor

    def __init__(self, config: ShowAttendTellConfig) -> None:
        super().__init__(config.vocab_size, config.d_embedding, config.dropout)
        self.config = config
        width, num_gates = efficientnet.WIDTH, 4
        self.encoder = efficientnet.EfficientNetLite0()
        self.annotation_norm = nn.LayerNorm(width)
        self.annotation_dropout = PooledDropout(config.annotation_dropout)
        self.initial = nn.Linear(width, 2 * config.d_hidden)
        self.align_state = nn.Linear(config.d_hidden, config.d_alignment)
        self.align_memory = nn.Linear(width, config.d_alignment, bias=False)
        self.align_score = nn.Parameter(torch.empty(config.d_alignment))
        self.gate = nn.Linear(config.d_hidden, 1)
        self.token_gates = nn.Linear(config.d_embedding, num_gates * config.d_hidden)
        self.state_gates = nn.Linear(config.d_hidden, num_gates * config.d_hidden, bias=False)
        self.context_gates = nn.Linear(width, num_gates * config.d_hidden, bias=False)
        self.deep_token = nn.Linear(config.d_embedding, config.d_embedding)
        self.deep_state = nn.Linear(config.d_hidden, config.d_embedding, bias=False)
        self.deep_context = nn.Linear(width, config.d_embedding, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self._initialise()
        no_words = torch.zeros(config.vocab_size, dtype=torch.bool)
        no_words[list(NO_WORDS)] = True
        self.register_buffer("no_words", no_words, persistent=False)

    def _initialise(self) -> None:
        of_state = (self.initial, self.align_state, self.align_memory, self.gate)
        for linear in (*of_state, self.deep_token, self.deep_state, self.deep_context):
            nn.init.xavier_uniform_(linear.weight)
        for gates in (self.token_gates, self.context_gates):
            for gate in gates.weight.data.chunk(4):
                nn.init.xavier_uniform_(gate)
        initialise_recurrent(self.state_gates, 4)
        for linear in (self.initial, self.align_state, self.gate, self.token_gates, self.deep_token):
            nn.init.zeros_(linear.bias)
        nn.init.ones_(self.token_gates.bias.data.chunk(4)[1])
        nn.init.normal_(self.align_score, std=self.config.d_alignment**-0.5)
        if self.config.attention == "uniform":
            nn.init.zeros_(self.align_score.requires_grad_(False))
        nn.init.normal_(self.embedding.weight, std=self.config.d_embedding**-0.5)

    def features(self, image: Tensor) -> Tensor:
        """Pixels from 0 to 255, (B, 224, 224, 3) -> the trunk's grid, (B, L, D), which training caches."""
        grid: Tensor = self.encoder(image)
        return grid.flatten(2).transpose(1, 2)

    def annotate(self, features: Tensor) -> Tensor:
        """Normalises a grid to the annotations a_i: (B, L, D), of the same shape."""
        normed: Tensor = self.annotation_norm(features)
        # All cells of an image drop the same channels: otherwise a mean over many cells would suffer less than a single cell.
        return normed * self.annotation_dropout(torch.ones_like(normed[:, :1])) if self.training else normed

    def encode(self, src: Tensor) -> Tensor:
        """Pixels as for :meth:`features` -> annotations (B, L, D)."""
        return self.annotate(self.features(src))

    def source(self, memory: Tensor) -> Annotations:
        """Computes the alignment keys of annotations, doubled as :func:`additive_attention` requires."""
        return Annotations(memory, 2 * self.align_memory(memory))

    def initial_state(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """h_0 and c_0, from the mean annotation (section 3.1.2): (B, D) -> (B, n) each."""
        hidden, cell = torch.tanh(self.initial(mean)).chunk(2, -1)
        return hidden, cell

    def step(self, token_gates: Tensor, hidden: Tensor, cell: Tensor, source: Annotations, *, draw: bool = False) -> Step:
        """One step: the attention (equations 4 to 6), the gated context (section 4.2.1), and the LSTM (equations 1 to 3).

        Args:
            token_gates: the last token's term of the gates, (B, 4 n).
            hidden: h_{t-1}, (B, n).
            cell: c_{t-1}, (B, n).
            source: the source of each row.
            draw: draw the location from the weights (equation 8). Otherwise hard attention uses the most probable location in
                evaluation, and the mean in training, as soft attention does (section 4.1: half of the batches, for less gradient
                noise).
        """
        context, weights = additive_attention(self.align_state(hidden), source.key, self.align_score, source.memory)
        log_drawn = None
        if draw:
            place = torch.multinomial(weights.detach(), 1)
            log_drawn = weights.gather(1, place).squeeze(1).log()
            context = _look_at(source.memory, place)
        elif self.config.attention == "hard" and not self.training:
            context = _look_at(source.memory, weights.argmax(-1, keepdim=True))
        context = torch.sigmoid(self.gate(hidden)) * context
        gates = token_gates + self.state_gates(hidden) + self.context_gates(context)
        following, following_cell = lstm_step(gates, cell)
        return Step(following, following_cell, context, weights, log_drawn)

    def readout(self, deep_token: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """The input of L_o in equation 7: the last token's term (..., m), h_t (..., n), the gated context (..., D) -> (..., m)."""
        out: Tensor = deep_token + self.deep_state(hidden) + self.deep_context(context)
        return out

    def unroll(self, source: Annotations, tgt: Tensor, *, draw: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Processes all target positions; each depends on those before it (teacher forcing).

        Args:
            source: the source of each row.
            tgt: int64 (B, T), beginning with the begin symbol.
            draw: as in :meth:`step`.

        Returns:
            The output layer's input (B, T, m), the weights (B, T, L), and log p(s_t) (B, T) if drawn.
        """
        embedded = self.embed(tgt)
        (hidden, cell), steps = self.initial_state(source.memory.mean(1)), list[Step]()
        for token_gates in self.token_gates(embedded).unbind(1):
            steps.append(self.step(token_gates, hidden, cell, source, draw=draw))
            hidden, cell = steps[-1].hidden, steps[-1].cell
        out = self.readout(
            self.deep_token(embedded), torch.stack([s.hidden for s in steps], 1), torch.stack([s.context for s in steps], 1)
        )
        weights = torch.stack([s.weights for s in steps], 1)
        drawn = [s.log_drawn for s in steps if s.log_drawn is not None]
        return self.dropout(out), weights, torch.stack(drawn, 1) if drawn else None

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Calls :meth:`unroll` on annotations (B, L, D); ``src`` is not read. The attention is (B, 1, T, L)."""
        hidden, weights, _ = self.unroll(self.source(memory), tgt)
        return hidden, [weights.unsqueeze(1)]

    def start_from(self, counts: Tensor) -> None:
        """Sets the output's bias, (V), to the logarithm of each word's share of ``counts``: the prior without an image."""
        self.output_bias.data = (counts.clamp(min=0.5) / counts.sum()).log()

    def project(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary: (..., m) -> (..., V)."""
        return super().project(hidden) + self.output_bias

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token of a caption; ``NO_WORDS`` get a value so low that they are never chosen."""
        logits: Tensor = self.project(hidden).masked_fill(self.no_words, _LOWEST)
        return logits


def _look_at(memory: Tensor, place: Tensor) -> Tensor:
    """Selects the annotations (B, D) at one location of each row: (B, L, D) and int64 (B, 1)."""
    return memory.gather(1, place.unsqueeze(-1).expand(-1, -1, memory.shape[-1])).squeeze(1)
