# SPDX-License-Identifier: Apache-2.0
"""Recurrent helpers: one step of a GRU and of an LSTM from their gates, reversal of padded rows, initial weights.

Gates are packed along the last axis as PyTorch packs them: reset, update, new (GRU); input, forget, cell, output (LSTM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

_ONNX_ORDER = {3: [1, 0, 2], 4: [0, 3, 1, 2]}
"""By number of gates: the index of PyTorch's gate at each position of ONNX's order."""
_SHUT = 50.0
"""A gate input whose sigmoid is 2e-22: negligible against any state, and not a denormal number."""


def gru_step(input_gates: Tensor, state_gates: Tensor, state: Tensor) -> Tensor:
    """One step of the gated recurrent unit of Cho et al. 2014; the reset gate acts after the product with the state.

    Args:
        input_gates: W x + b, (B, 3 H).
        state_gates: U s + b, (B, 3 H).
        state: s, (B, H).

    Returns:
        The next state (B, H).
    """
    size = 2 * state.shape[-1]
    reset, update = torch.sigmoid(input_gates[..., :size] + state_gates[..., :size]).chunk(2, -1)
    new = torch.tanh(input_gates[..., size:] + reset * state_gates[..., size:])
    following: Tensor = new + update * (state - new)
    return following


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Args:
        gates: W x + U h + b, (B, 4 H).
        cell: c, (B, H).

    Returns:
        The next state h and the next cell c, (B, H) each.
    """
    keep_in, keep_old, new, give = gates.chunk(4, -1)
    following = torch.sigmoid(keep_old) * cell + torch.sigmoid(keep_in) * torch.tanh(new)
    return torch.sigmoid(give) * torch.tanh(following), following


def reverse_rows(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverses each row within its own length; the rest of the row stays in place. The function is its own inverse.

    Args:
        x: (B, T) or (B, T, D).
        lengths: int64 (B).
    """
    place = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    mirrored = lengths.unsqueeze(1) - 1 - place  # (B, T)
    index = torch.where(mirrored >= 0, mirrored, place)
    if x.dim() == 3:
        index = index.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, index)


def layer_weights(layer: nn.GRU | nn.LSTM) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the weights of one layer: of its input (gates H, D), of its state (gates H, H), and the bias (gates H) of each."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], tuple(getattr(layer, name) for name in names))


def read_padded(layer: nn.GRU | nn.LSTM, x: Tensor, is_padding: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Runs a layer over rows that are padded in front, so that the padding has no effect.

    PyTorch's fused kernels have no lengths, and its packed sequences take twice as long. So a further input, 1 on padding,
    closes the gate by which the zero state could change: the input gate of an LSTM, the update gate of a GRU.

    Args:
        layer: of one layer and one direction, batch first, with an input of D.
        x: (B, T, D).
        is_padding: bool (B, T), true before each row's first entry.

    Returns:
        The outputs (B, T, H), zero on padding to float precision, and the last state: h and c, or h alone, (B, H) each.
    """
    size, is_lstm = layer.hidden_size, isinstance(layer, nn.LSTM)
    weight, *others = layer_weights(layer)
    shut = x.new_zeros(len(weight), 1)
    if is_lstm:
        shut[:size] = -_SHUT
    else:
        shut[size : 2 * size] = _SHUT
    weights = [torch.cat([weight, shut], 1), *others]
    flagged = torch.cat([x, is_padding.unsqueeze(-1).to(x.dtype)], -1)
    zero = x.new_zeros(1, x.shape[0], size)
    if is_lstm:
        out, *last = torch.lstm(flagged, (zero, zero), weights, True, 1, 0.0, layer.training, False, True)
    else:
        out, *last = torch.gru(flagged, zero, weights, True, 1, 0.0, layer.training, False, True)
    return out, [part[0] for part in last]


def initialise_recurrent(module: nn.GRU | nn.LSTM | nn.Linear, num_gates: int) -> None:
    """Initialises input matrices by Xavier, recurrent ones orthogonally by gate, biases to 0, or 1 for an LSTM's forget gate.

    A linear layer is treated as recurrent.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.zeros_(parameter)
            if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                nn.init.ones_(parameter.data.chunk(num_gates)[1])
        else:
            is_recurrent = isinstance(module, nn.Linear) or name.startswith("weight_hh")
            for gate in parameter.data.chunk(num_gates):
                (nn.init.orthogonal_ if is_recurrent else nn.init.xavier_uniform_)(gate)


def onnx_recurrent(
    layers: Sequence[nn.GRU | nn.LSTM], x: Tensor, lengths: Tensor, direction: Literal["forward", "reverse", "bidirectional"]
) -> tuple[Tensor, list[Tensor]]:
    """Emits ONNX's GRU or LSTM operator, which takes lengths; a traced PyTorch layer would keep the length it was traced with.

    The call has no value in PyTorch: a module that makes it can be exported, not run. ONNX orders the gates as update, reset,
    new and as input, output, forget, cell.

    Args:
        layers: one layer for each direction: forwards first, then backwards.
        x: (T, B, D), right-padded.
        lengths: int32 (B).
        direction: "reverse" starts at each row's own end.

    Returns:
        The outputs (T, directions, B, H), zero on padding, and the last states: h and c, or h alone, (directions, B, H) each.
    """
    is_lstm, size, num = isinstance(layers[0], nn.LSTM), layers[0].hidden_size, len(layers)
    order = _ONNX_ORDER[4 if is_lstm else 3]
    weights: list[list[Tensor]] = [[], [], []]
    for layer in layers:
        of_input, of_state, *biases = (each.unflatten(0, (-1, size))[order].flatten(0, 1) for each in layer_weights(layer))
        for kind, value in zip(weights, (of_input, of_state, torch.cat(biases)), strict=True):
            kind.append(value)
    last = (num, x.shape[1], size)
    attributes: dict[str, Any] = {"hidden_size": size, "direction": direction}
    out = torch.onnx.ops.symbolic_multi_out(
        "LSTM" if is_lstm else "GRU",
        [x, *map(torch.stack, weights), lengths],
        attrs=attributes if is_lstm else {**attributes, "linear_before_reset": 1},
        dtypes=[x.dtype] * (3 if is_lstm else 2),
        shapes=[(x.shape[0], *last), *([last] * (2 if is_lstm else 1))],
        version=14,
    )
    return out[0], list(out[1:])


def stored_biases(stored: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the biases of layers from a graph made by :func:`onnx_recurrent`.

    The graph stores them as one constant for each operator, (directions, 2 gates H), which the exporter names "stack" and a number.

    Args:
        stored: initializers by name, with each layer's ``weight_hh_l0``.
        names: of the layers, in the order of the operators and of their directions.
    """
    stacks = sorted((name for name in stored if name.startswith("stack")), key=lambda name: int(name.partition("_")[2] or 0))
    rows = [row for stack in stacks for row in stored[stack]]
    found: dict[str, Tensor] = {}
    for name, row in zip(names, rows, strict=True):
        gates, size = stored[f"{name}.weight_hh_l0"].shape
        num_gates = gates // size
        places = [_ONNX_ORDER[num_gates].index(gate) for gate in range(num_gates)]
        for kind, part in zip(("ih", "hh"), row.chunk(2), strict=True):
            found[f"{name}.bias_{kind}_l0"] = part.unflatten(0, (num_gates, size))[places].flatten()
    return found
