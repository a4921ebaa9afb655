# SPDX-License-Identifier: Apache-2.0
"""Checks that a manifest declares all that the engine of single-pass models needs. Uses protobuf, and no files or graphs.

Which labels and outputs a model needs depends on its task (``tasks/registry.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.checks import named_files

MAX_BATCH = 1024
"""Largest batch that a manifest or a setting may name: the warm-up runs each size."""
MUCH_LARGER = 4
"""Times of the manifest's largest batch above which a setting is worth a warning: memory grows with the batch."""
MAX_PIXELS = 8192
"""Largest width or height of an input image."""
MAX_FRAMES = 1024
"""Largest number of frames of an input clip."""
_ROLE_AXES = {
    manifest_pb2.ATTENTION_ROLE_UNARY: 2,
    manifest_pb2.ATTENTION_ROLE_PAIRWISE: 3,
    manifest_pb2.ATTENTION_ROLE_CHANNEL: 2,
    manifest_pb2.ATTENTION_ROLE_SPATIAL: 3,
}
"""Number of axes of an attention output, the batch included."""
_RESERVED = {
    "image": (manifest_pb2.DATA_TYPE_UINT8, ("batch", "height", "width", "3")),
    "clip": (manifest_pb2.DATA_TYPE_UINT8, ("batch", "frame", "height", "width", "3")),
    "size": (manifest_pb2.DATA_TYPE_INT64, ("batch", "2")),
    "query": (manifest_pb2.DATA_TYPE_INT64, ("batch", "query")),
    "latent": (manifest_pb2.DATA_TYPE_FLOAT32, ("batch", "latent")),
    "label": (manifest_pb2.DATA_TYPE_INT64, ("batch",)),
}
"""Type and axes of the inputs with a reserved name; a decimal number may stand for a named axis."""


def single_pass_problems(manifest: manifest_pb2.Manifest) -> list[str]:
    """Returns all problems of a single-pass model's manifest, except those of its task."""
    declared = manifest.single_pass
    problems = [] if manifest.HasField("single_pass") else ["single_pass is missing"]
    if manifest.states:
        problems.append("states: a single-pass model has none")
    problems += [*_picture_problems(declared.picture), *_label_problems(declared.labels), *_attention_problems(declared.attention)]
    problems += _clip_problems(declared.clip) if declared.HasField("clip") else []
    for each in manifest.variants:
        problems += _variant_problems(declared, each)
    if "" in named_files(manifest):
        problems.append("(empty name) is named but not listed")
    return problems


def largest_batch(variant: manifest_pb2.Variant, *, wants_attention: bool, asked: int = 0) -> int:
    """Returns the largest batch of a single-pass variant, at least 1.

    Args:
        variant: of the checked manifest.
        wants_attention: whether the batch's requests want attention.
        asked: the setting; 0 for the manifest's.
    """
    fitting = (each.max_batch for each in variant.passes if each.gives_attention or not wants_attention)
    return asked or next(fitting, 1)


def batch_warning(variant: manifest_pb2.Variant, asked: int) -> str:
    """Returns a warning of a setting that is much larger than the largest batch of the manifest; empty if it is not.

    Args:
        variant: of the checked manifest.
        asked: the setting; 0 for the manifest's.
    """
    most = max(largest_batch(variant, wants_attention=wants) for wants in (False, True))
    if asked <= MUCH_LARGER * most:
        return ""
    return f"a largest batch of {asked} is set, and the bundle was measured with {most} at most: memory may not suffice"


def _picture_problems(picture: manifest_pb2.PictureInput) -> Iterator[str]:
    for index, size in enumerate(picture.sizes):
        if not (1 <= size.width <= MAX_PIXELS and 1 <= size.height <= MAX_PIXELS):
            yield f"single_pass.picture.sizes[{index}]: {size.width}x{size.height} is not between 1x1 and {MAX_PIXELS}x{MAX_PIXELS}"
    for twice in _repeated(f"{size.width}x{size.height}" for size in picture.sizes):
        yield f"single_pass.picture.sizes: {twice} is there twice"


def _clip_problems(clip: manifest_pb2.ClipInput) -> Iterator[str]:
    size, cells = clip.size, clip.cells
    if not 1 <= clip.frames <= MAX_FRAMES:
        yield f"single_pass.clip.frames: {clip.frames} is not between 1 and {MAX_FRAMES}"
    if not (1 <= size.width <= MAX_PIXELS and 1 <= size.height <= MAX_PIXELS):
        yield f"single_pass.clip.size: {size.width}x{size.height} is not between 1x1 and {MAX_PIXELS}x{MAX_PIXELS}"
    if clip.sampling != manifest_pb2.FRAME_SAMPLING_EVEN:
        yield "single_pass.clip.sampling is not known"
    if not (cells.times and cells.rows and cells.columns and cells.frames):
        yield "single_pass.clip.cells: a size is 0"
    elif cells.first_frame + cells.times * cells.frames > clip.frames:
        yield f"single_pass.clip.cells: they reach beyond {clip.frames} frames"


def _label_problems(labels: Iterable[manifest_pb2.Label]) -> Iterator[str]:
    named = list(labels)
    for index, label in enumerate(named):
        if not label.name:
            yield f"single_pass.labels[{index}]: no name"
        if label.colour > 0xFFFFFF:
            yield f"single_pass.labels[{index}]: colour {label.colour} has more than three bytes"
    for twice in _repeated(label.name for label in named if label.name):
        yield f"single_pass.labels: {twice!r} is there twice"


def _attention_problems(attention: Iterable[manifest_pb2.PassAttention]) -> Iterator[str]:
    outputs = list(attention)
    for each in outputs:
        if each.role not in _ROLE_AXES:
            yield f"single_pass.attention {each.output}: no known role"
    for twice in _repeated(each.output for each in outputs):
        yield f"single_pass.attention: {twice!r} is there twice"


def _variant_problems(declared: manifest_pb2.SinglePass, variant: manifest_pb2.Variant) -> Iterator[str]:
    where = f"variant {variant.name}"
    if not variant.passes:
        yield f"{where}: no graph"
    if variant.steps or variant.HasField("encode"):
        yield f"{where}: a single-pass model has neither an encode nor a step graph"
    if declared.attention and not any(each.gives_attention for each in variant.passes):
        yield f"{where}: no graph gives attention"
    attention = {each.output for each in declared.attention}
    answers = [{tensor.name for tensor in each.graph.outputs} - attention for each in variant.passes]
    if any(each != answers[0] for each in answers):
        yield f"{where}: the graphs have other outputs beside the attention"
    for each in variant.passes:
        yield from (f"{where}, {each.graph.file}: {problem}" for problem in _graph_problems(declared, each))


def _graph_problems(declared: manifest_pb2.SinglePass, each: manifest_pb2.PassGraph) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in each.graph.inputs}
    outputs = {tensor.name: tensor for tensor in each.graph.outputs}
    if not 1 <= each.max_batch <= MAX_BATCH:
        yield f"max_batch {each.max_batch} is not between 1 and {MAX_BATCH}"
    if not inputs or not outputs:
        yield "it needs inputs and outputs"
    for tensor in (*each.graph.inputs, *each.graph.outputs):
        yield from _tensor_problems(tensor)
    for twice in _repeated(tensor.name for tensor in (*each.graph.inputs, *each.graph.outputs)):
        yield f"{twice} is there twice"
    yield from _image_problems(declared.picture, inputs)
    yield from _clip_input_problems(declared, each)
    roles = {attention.output: attention.role for attention in declared.attention}
    if each.gives_attention and not roles:
        yield "it gives attention, and single_pass.attention is empty"
    for name, role in roles.items():
        if (name in outputs) != each.gives_attention:
            yield (
                f"no output {name}" if each.gives_attention else f"it has the attention output {name}, and does not give attention"
            )
        elif name in outputs and len(outputs[name].axes) != _ROLE_AXES.get(role, len(outputs[name].axes)):
            yield f"output {name}: its axes are not those of its role"


def _tensor_problems(tensor: manifest_pb2.Tensor) -> Iterator[str]:
    known = set(manifest_pb2.DataType.values()) - {manifest_pb2.DATA_TYPE_UNSPECIFIED}
    if tensor.dtype not in known:
        yield f"{tensor.name}: no known element type"
    if not tensor.axes or tensor.axes[0] != "batch":
        yield f'{tensor.name}: its first axis is not "batch"'
    if "batch" in tensor.axes[1:] or any(not axis or (axis.isdigit() and not int(axis)) for axis in tensor.axes):
        yield f"{tensor.name}: axes {list(tensor.axes)}"


def _image_problems(picture: manifest_pb2.PictureInput, inputs: dict[str, manifest_pb2.Tensor]) -> Iterator[str]:
    """Problems of the inputs with a reserved name, and of the picture that they are made of."""
    for name, (dtype, axes) in _RESERVED.items():
        if name in inputs and not (inputs[name].dtype == dtype and _is_like(list(inputs[name].axes), axes)):
            yield f"input {name} is not {manifest_pb2.DataType.Name(dtype)} ({', '.join(axes)})"
    if "size" in inputs and "image" not in inputs:
        yield "it has the input size and no input image"
    if "image" not in inputs:
        return
    if picture.fit not in (manifest_pb2.FIT_STRETCH, manifest_pb2.FIT_PAD):
        yield "input image, and single_pass.picture.fit is not known"
    elif (picture.fit == manifest_pb2.FIT_PAD) != ("size" in inputs):
        yield "the input size belongs to FIT_PAD, and FIT_PAD to it"
    if not picture.sizes:
        yield "input image, and single_pass.picture.sizes is empty"
    for size in picture.sizes:
        pixels = str(size.height), str(size.width)
        if any(axis.isdigit() and axis != wanted for axis, wanted in zip(inputs["image"].axes[1:3], pixels, strict=False)):
            yield f"input image does not take {size.width}x{size.height}"


def _clip_input_problems(declared: manifest_pb2.SinglePass, each: manifest_pb2.PassGraph) -> Iterator[str]:
    """Problems of the input clip, and of the attention over its cells."""
    given = next((list(tensor.axes) for tensor in each.graph.inputs if tensor.name == "clip"), None)
    if (given is not None) != declared.HasField("clip"):
        yield "the input clip belongs to single_pass.clip, and single_pass.clip to it"
    if given is None or not declared.HasField("clip"):
        return
    clip, cells = declared.clip, declared.clip.cells
    if given[1:4] != [str(clip.frames), str(clip.size.height), str(clip.size.width)]:
        yield f"input clip does not take {clip.frames} frames of {clip.size.width}x{clip.size.height}"
    pairwise = {each.output for each in declared.attention if each.role == manifest_pb2.ATTENTION_ROLE_PAIRWISE}
    for tensor in each.graph.outputs:
        if tensor.name in pairwise and list(tensor.axes[2:]) != [str(cells.times * cells.rows * cells.columns)]:
            yield f"output {tensor.name}: its cells are not those of single_pass.clip"


def _is_like(axes: list[str], wanted: tuple[str, ...]) -> bool:
    if len(axes) != len(wanted):
        return False
    return all(
        axis == name or (axis.isdigit() and not name.isdigit() and name != "batch") for axis, name in zip(axes, wanted, strict=True)
    )


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
