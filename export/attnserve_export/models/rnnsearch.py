# SPDX-License-Identifier: Apache-2.0
"""RNNsearch: Neural Machine Translation by Jointly Learning to Align and Translate (Bahdanau et al. 2015),
https://arxiv.org/abs/1409.0473.

What differs from the paper:

* The reset gate acts on U s (as in cuDNN and PyTorch), not on s before the product, so all products with s are one matrix.
* The deep output reads s_i, as in equation 4; the appendix (A.2.2) writes s_{i-1}.
* One embedding matrix serves source, target and output (W_o): one vocabulary for both languages, m = l. Embeddings are scaled by
  the square root of their width, so that the matrix can serve as both.
* Dropout (Srivastava et al. 2014) on embeddings, annotations and the deep output; the paper has none.
* Initial weights: recurrent matrices orthogonal as in the paper, the others Xavier instead of N(0, 0.01^2), v_a not zero.
* Sizes: n = 1000, m = 620, l = 500, n' = 1000 in the paper, and the encoder's n equal to the decoder's.

Symbols of the paper and their names here: E -> ``embedding``; h_j -> memory; W_s -> ``initial``; W_a, U_a, v_a ->
``align_state``, ``align_memory``, ``align_score``; W, U, C (of all gates) -> ``token_gates``, ``state_gates``,
``context_gates``; U_o, V_o, C_o -> the columns of ``deep``; W_o -> ``embedding`` once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnserve_export.layers.attention import additive_attention
from attnserve_export.layers.output import TiedModel
from attnserve_export.layers.recurrent import gru_step, initialise_recurrent, reverse_rows


@dataclass(frozen=True, slots=True)
class RnnSearchConfig:
    """Sizes of an RNNsearch: m = l, the encoder's n (of one direction), the decoder's n, n'."""

    vocab_size: int
    d_embedding: int = 128
    d_encoder: int = 128
    d_decoder: int = 256
    d_alignment: int = 128
    dropout: float = 0.3


@dataclass(frozen=True, slots=True)
class EncodedSource:
    """The decoder's view of a source: annotations (B, T_src, 2 n), 2 U_a h_j (B, T_src, n'), padding mask bool (B, T_src)."""

    memory: Tensor
    key: Tensor
    is_hidden: Tensor


class RnnSearch(TiedModel):
    """The model of section 3. Token id 0 is padding."""

    def __init__(self, config: RnnSearchConfig) -> None:
        super().__init__(config.vocab_size, config.d_embedding, config.dropout)
        self.config = config
        d_memory, num_gates = 2 * config.d_encoder, 3
        self.reader = nn.GRU(config.d_embedding, config.d_encoder, batch_first=True)
        self.backward_reader = nn.GRU(config.d_embedding, config.d_encoder, batch_first=True)
        self.initial = nn.Linear(config.d_encoder, config.d_decoder)
        self.align_state = nn.Linear(config.d_decoder, config.d_alignment)
        self.align_memory = nn.Linear(d_memory, config.d_alignment, bias=False)
        self.align_score = nn.Parameter(torch.empty(config.d_alignment))
        self.token_gates = nn.Linear(config.d_embedding, num_gates * config.d_decoder)
        self.state_gates = nn.Linear(config.d_decoder, num_gates * config.d_decoder)
        self.context_gates = nn.Linear(d_memory, num_gates * config.d_decoder, bias=False)
        self.deep = nn.Linear(config.d_decoder + config.d_embedding + d_memory, 2 * config.d_embedding)
        self._initialise()

    def _initialise(self) -> None:
        for linear in (self.initial, self.align_state, self.align_memory, self.deep):
            nn.init.xavier_uniform_(linear.weight)
        for gates in (self.token_gates, self.context_gates):
            for gate in gates.weight.data.chunk(3):
                nn.init.xavier_uniform_(gate)
        for recurrent in (self.reader, self.backward_reader, self.state_gates):
            initialise_recurrent(recurrent, 3)
        for linear in (self.initial, self.align_state, self.token_gates, self.deep):
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.align_score, std=self.config.d_alignment**-0.5)
        nn.init.normal_(self.embedding.weight, std=self.config.d_embedding**-0.5)

    def encode(self, src: Tensor) -> Tensor:
        """Section 3.2: annotations, one GRU reading forwards and one backwards.

        Args:
            src: int64 (B, T_src), 0 where padded.

        Returns:
            h_j = [forward; backward], (B, T_src, 2 n); undefined on padding.
        """
        lengths, embedded = (src != 0).sum(1), self.embed(src)
        forward: Tensor = self.reader(embedded)[0]
        backward: Tensor = reverse_rows(self.backward_reader(reverse_rows(embedded, lengths))[0], lengths)
        memory: Tensor = self.dropout(torch.cat([forward, backward], -1))
        return memory

    def source(self, memory: Tensor, is_hidden: Tensor) -> EncodedSource:
        """Computes U_a h_j, which all steps share (appendix A.1.2), doubled as :func:`additive_attention` requires."""
        return EncodedSource(memory, 2 * self.align_memory(memory), is_hidden)

    def initial_state(self, memory: Tensor) -> Tensor:
        """s_0 = tanh(W_s h_1), from the backward annotation (appendix A.2.2): (B, T_src, 2 n) -> (B, n)."""
        return torch.tanh(self.initial(memory[:, 0, self.config.d_encoder :]))

    def step(self, token_gates: Tensor, state: Tensor, source: EncodedSource) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the decoder: alignment, context, and the next state (section 3.1, appendix A.2.2).

        Args:
            token_gates: the last token's term of the gates, W E y_{i-1} + b, (B, 3 n).
            state: s_{i-1}, (B, n).
            source: the source of each row.

        Returns:
            s_i (B, n), the context c_i (B, 2 n), and the alignment (B, T_src).
        """
        context, weights = additive_attention(
            self.align_state(state), source.key, self.align_score, source.memory, source.is_hidden
        )
        following = gru_step(token_gates + self.context_gates(context), self.state_gates(state), state)
        return following, context, weights

    def readout(self, state: Tensor, embedded: Tensor, context: Tensor) -> Tensor:
        """The deep output t_i with its maxout of pairs (appendix A.2.2): (..., n), (..., m), (..., 2 n) -> (..., l)."""
        return maxout(self.deep(torch.cat([state, embedded, context], -1)))

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Processes all target positions; each depends on those before it (teacher forcing).

        Terms outside the recurrence are computed for all positions at once, before or after it.

        Args:
            memory: (B, T_src, 2 n).
            src: int64 (B, T_src), for its padding.
            tgt: int64 (B, T_tgt), beginning with the begin symbol.

        Returns:
            The deep output (B, T_tgt, l), and one alignment (B, 1, T_tgt, T_src).
        """
        source, state, embedded = self.source(memory, src == 0), self.initial_state(memory), self.embed(tgt)
        states, contexts, alignment = [], [], []
        for token_gates in self.token_gates(embedded).unbind(1):
            state, context, weights = self.step(token_gates, state, source)
            states.append(state)
            contexts.append(context)
            alignment.append(weights)
        hidden = self.readout(torch.stack(states, 1), embedded, torch.stack(contexts, 1))
        return self.dropout(hidden), [torch.stack(alignment, 1).unsqueeze(1)]


def maxout(x: Tensor) -> Tensor:
    """Returns the larger value of each pair (Goodfellow et al. 2013): (..., 2 l) -> (..., l); j is paired with l + j."""
    first, second = x.chunk(2, -1)
    return torch.maximum(first, second)
