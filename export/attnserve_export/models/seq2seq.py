# SPDX-License-Identifier: Apache-2.0
"""Sequence to Sequence Learning with Neural Networks (Sutskever et al. 2014), https://arxiv.org/abs/1409.3215.

A deep LSTM reads the source backwards into a vector of fixed size, and another deep LSTM generates the target from it. There is
no attention; the paper predates it.

What differs from the paper:

* GRU cells (Cho et al. 2014) as an option.
* One embedding matrix serves source, target and output, scaled by the square root of its width as an embedding; a linear layer
  between the last LSTM layer and the output makes their widths equal.
* Dropout on embeddings, between layers and before the output; the paper has none. Initial weights: recurrent matrices orthogonal,
  the others Xavier, the forget gate's bias 1, instead of U(-0.08, 0.08).
* The source keeps its end symbol, which is read first.
* Sizes: 4 layers of 1000 cells and 1000-dimensional embeddings in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from attnserve_export.layers.output import TiedModel
from attnserve_export.layers.recurrent import gru_step, initialise_recurrent, layer_weights, lstm_step, read_padded


@dataclass(frozen=True, slots=True)
class Seq2SeqConfig:
    """Sizes, and the kind of cell."""

    vocab_size: int
    d_embedding: int = 128
    d_hidden: int = 160
    num_layers: int = 2
    dropout: float = 0.3
    cell: Literal["lstm", "gru"] = "lstm"

    def __post_init__(self) -> None:
        if self.cell not in ("lstm", "gru"):
            raise ValueError(f"cell must be lstm or gru, not {self.cell!r}")

    @property
    def num_parts(self) -> int:
        """Number of vectors in one layer's state: h and c of an LSTM, h of a GRU."""
        return 2 if self.cell == "lstm" else 1

    @property
    def num_gates(self) -> int:
        """Number of gates of one cell."""
        return 4 if self.cell == "lstm" else 3


class Seq2Seq(TiedModel):
    """Two deep recurrent networks; the first one's last states are the second one's initial states (section 2). Id 0 is padding."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config.vocab_size, config.d_embedding, config.dropout)
        self.config = config
        self.reader, self.writer = self._layers(), self._layers()
        self.readout = nn.Linear(config.d_hidden, config.d_embedding)
        nn.init.normal_(self.embedding.weight, std=config.d_embedding**-0.5)
        nn.init.xavier_uniform_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def _layers(self) -> nn.ModuleList:
        config = self.config
        make = nn.LSTM if config.cell == "lstm" else nn.GRU
        layers = nn.ModuleList()
        for index in range(config.num_layers):
            layer = make(config.d_hidden if index else config.d_embedding, config.d_hidden, batch_first=True)
            initialise_recurrent(layer, config.num_gates)
            layers.append(layer)
        return layers

    @property
    def reader_layers(self) -> list[nn.LSTM | nn.GRU]:
        """The encoder's layers, first to last."""
        return cast(list[nn.LSTM | nn.GRU], list(self.reader))

    @property
    def writer_layers(self) -> list[nn.LSTM | nn.GRU]:
        """The decoder's layers, first to last."""
        return cast(list[nn.LSTM | nn.GRU], list(self.writer))

    def encode(self, src: Tensor) -> Tensor:
        """Reads the source backwards (section 3.3), each row from its own end.

        Args:
            src: int64 (B, T_src), 0 where padded.

        Returns:
            The last states of all layers (B, layers, parts, d_hidden); parts are h and c, or h alone.
        """
        backwards = src.flip(1)  # padding comes first now, directly followed by each row's end symbol
        x, is_padding, states = self.embed(backwards), backwards == 0, []
        for index, layer in enumerate(self.reader_layers):
            x, last = read_padded(layer, self.dropout(x) if index else x, is_padding)
            states.append(torch.stack(last, 1))  # (B, parts, d_hidden)
        return torch.stack(states, 1)

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Processes all target positions; each depends on those before it (teacher forcing).

        Args:
            memory: (B, layers, parts, d_hidden), from :meth:`encode`.
            src: int64 (B, T_src); not read: ``memory`` is all that the decoder reads of the source.
            tgt: int64 (B, T_tgt), beginning with the begin symbol.

        Returns:
            The output layer's input (B, T_tgt, d_embedding), and no alignments.
        """
        x = self.embed(tgt)
        for index, layer in enumerate(self.writer_layers):
            parts = [part.unsqueeze(0).contiguous() for part in memory[:, index].unbind(1)]
            x, _ = layer(x, tuple(parts) if len(parts) == 2 else parts[0])
            x = self.dropout(x)
        return self.dropout(self.readout(x)), []

    def step(self, first_gates: Tensor, states: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        """One step of the decoder in separate products, without dropout: equal to :meth:`decode` at one position.

        Args:
            first_gates: the last token's term of the first layer's gates, W x + b, (B, gates d_hidden).
            states: for each layer its parts, (B, d_hidden) each.

        Returns:
            The output layer's input (B, d_embedding), and the next states.
        """
        input_gates, following = first_gates, list[list[Tensor]]()
        for layer, parts in zip(self.writer_layers, states, strict=True):
            of_input, of_state, input_bias, state_bias = layer_weights(layer)
            if following:
                input_gates = nn.functional.linear(following[-1][0], of_input, input_bias)
            state_gates = nn.functional.linear(parts[0], of_state, state_bias)
            if self.config.cell == "lstm":
                following.append(list(lstm_step(input_gates + state_gates, parts[1])))
            else:
                following.append([gru_step(input_gates, state_gates, parts[0])])
        return self.readout(following[-1][0]), following
