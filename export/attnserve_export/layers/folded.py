# SPDX-License-Identifier: Apache-2.0
"""Batch normalisations folded into the convolutions and linear layers beside them, for inference."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


@torch.no_grad()
def fold_norms(model: nn.Module, norms: Mapping[str, str], leading: Mapping[str, str] | None = None) -> None:
    """Replaces each convolution, or linear layer, and its batch normalisation by one layer with bias, in place.

    Args:
        model: it is set to evaluation mode.
        norms: attribute of a layer -> attribute of the normalisation after it, in the same module. Modules without both are left.
            A folded normalisation becomes the identity.
        leading: attribute of a normalisation without own parameters -> attribute of the linear layer after it.
    """
    for module in model.eval().modules():
        for conv_name, norm_name in norms.items():
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
            elif isinstance(conv, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                setattr(module, conv_name, fuse_linear_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
        for norm_name, linear_name in (leading or {}).items():
            norm, linear = getattr(module, norm_name, None), getattr(module, linear_name, None)
            if isinstance(norm, nn.BatchNorm1d) and isinstance(linear, nn.Linear):
                setattr(module, linear_name, _after(norm, linear))
                setattr(module, norm_name, nn.Identity())


def _after(norm: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """Returns one layer for W ((x - mean) / deviation) + b."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert not norm.affine
    folded = nn.Linear(linear.in_features, linear.out_features)
    weight = linear.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = -weight @ norm.running_mean
    folded.weight.copy_(weight)
    folded.bias.copy_(bias if linear.bias is None else bias + linear.bias)
    return folded.eval()


def has_norms(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state has batch normalisations that are not folded."""
    return any(name.endswith(".running_mean") for name in weights)
