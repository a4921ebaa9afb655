# SPDX-License-Identifier: Apache-2.0
"""Batch normalisations folded into the convolutions before them, for inference."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_norms(model: nn.Module, norms: Mapping[str, str]) -> None:
    """Replaces each convolution and its batch normalisation by one convolution with bias, in place.

    Args:
        model: it is set to evaluation mode.
        norms: attribute of a convolution -> attribute of its normalisation, in the same module. Modules without both are left.
            A folded normalisation becomes the identity.
    """
    for module in model.eval().modules():
        for conv_name, norm_name in norms.items():
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


def has_norms(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state has batch normalisations that are not folded."""
    return any(name.endswith(".running_mean") for name in weights)
