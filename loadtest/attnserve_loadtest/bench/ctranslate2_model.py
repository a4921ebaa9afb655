# SPDX-License-Identifier: Apache-2.0
"""The PyTorch module of a Transformer bundle in the format of CTranslate2, with the pieces of the bundle's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import sentencepiece
from ctranslate2.specs import TransformerSpec
from torch import Tensor, nn

from attnserve_export.models.transformer import Transformer
from attnserve_server.bundle.loader import Bundle


def pieces_of(bundle: Bundle) -> list[str]:
    """The vocabulary: the piece of each id."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=bundle.read(bundle.manifest.vocabulary.sentencepiece_file))
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size())]


def save_ctranslate2(model: Transformer, bundle: Bundle, folder: Path) -> None:
    """Writes the model as float32. Its alignment is the mean over all heads of the last decoder layer."""
    config, vocabulary, pieces = model.config, bundle.manifest.vocabulary, pieces_of(bundle)
    spec = TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=True,
        alignment_layer=-1,
        alignment_heads=0,
    )
    for stack, embeddings in ((spec.encoder, spec.encoder.embeddings[0]), (spec.decoder, spec.decoder.embeddings)):
        embeddings.weight = _array(model.embedding.weight)
        stack.position_encodings.encodings = _array(model.positions)
    _set_norm(spec.encoder.layer_norm, model.encoder_norm)
    _set_norm(spec.decoder.layer_norm, model.decoder_norm)
    for target, encoder in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        _set_attention(target.self_attention, encoder.self_norm, encoder.self_attention.qkv, encoder.self_attention.output)
        _set_feed_forward(target.ffn, encoder)
    for target, layer in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        cross = layer.cross_attention
        _set_attention(target.self_attention, layer.self_norm, layer.self_attention.qkv, layer.self_attention.output)
        _set_attention(target.attention, layer.cross_norm, cross.query, cross.key_value, cross.output)
        _set_feed_forward(target.ffn, layer)
    spec.decoder.projection.weight = _array(model.output_weight)
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    settings: Any = spec.config
    settings.unk_token = pieces[vocabulary.unknown_id]
    settings.bos_token = settings.decoder_start_token = pieces[vocabulary.begin_id]
    settings.eos_token = pieces[vocabulary.end_id]
    settings.add_source_eos = True
    spec.validate()
    spec.save(str(folder))


def translator(folder: Path) -> ctranslate2.Translator:
    """Loads the model: float32, one thread."""
    return ctranslate2.Translator(str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=1)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def _set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _set_attention(spec: Any, norm: nn.LayerNorm, *linears: nn.Linear) -> None:
    _set_norm(spec.layer_norm, norm)
    for target, linear in zip(spec.linear, linears, strict=True):
        target.weight, target.bias = _array(linear.weight), _array(linear.bias)


def _set_feed_forward(spec: Any, layer: Any) -> None:
    _set_norm(spec.layer_norm, layer.ff_norm)
    for target, linear in ((spec.linear_0, layer.feed_forward.inner), (spec.linear_1, layer.feed_forward.outer)):
        target.weight, target.bias = _array(linear.weight), _array(linear.bias)
