# SPDX-License-Identifier: Apache-2.0
"""The steps of the demo. A new task needs a function and a line in ``STEPS``; a new model needs no change.

A task's default model runs all of its steps. The task's other models are shown in the steps that compare models.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.padding import Padding
from rich.text import Text

from attnserve_client.caption_plot import save_stories
from attnserve_client.class_map_text import ClassMapText
from attnserve_client.classification_plot import save_maps
from attnserve_client.cli import attention, classify, segment
from attnserve_client.demo.stage import Stage, Step, file_of, has_attention
from attnserve_client.errors import ExtraMissing, ToolError
from attnserve_client.generation_plot import save_attention as save_generated
from attnserve_client.segmentation_plot import save_attention
from attnserve_client.types import CaptionDelta, Task, Translation, TranslationDelta
from attnserve_client.video_plot import save_frames

_SENTENCES = {
    "en": (
        "A brown dog carries a tennis ball across the wet lawn.",
        "Two children are building a sand castle on the beach.",
        "A woman in a red coat is waiting for the bus in the rain.",
        "An old man plays the guitar on a bench in the park.",
        "A boy jumps into the lake. Two girls are watching him.\n\nA dog is sleeping under a tree.",
    ),
}
"""For each source language, one text for each step below."""
PHOTO = Path(__file__).with_name("dog.jpg")
"""The photo to describe and to classify: a German shepherd; see ``PICTURES.md``."""
STREET = PHOTO.with_name("street.jpg")
"""The photo to segment; see ``PICTURES.md``."""
STREET_QUERIES = ((300, 420), (880, 160))
"""Pixels of it: on the road, and on a building."""
CLIP = PHOTO.with_name("clip.mp4")
"""The clip to classify: two figures that meet, rendered by ``clip.py``."""
CLIP_QUERY = (24, 0.5, 0.5)
"""A position in it: between the figures."""


def translate_by_all(stage: Stage) -> None:
    """The same sentence translated by every model, with the time that it took."""
    text = _sentence(stage, 1)
    stage.console.print(Text(f"   {text}"))
    width = max(len(details.model.id) for details in stage.models)
    for details in stage.models:
        translation = stage.client.translate(text, model=details.model.id, beam_size=5)
        year = f"({details.manifest.paper.year})" if details.manifest.paper.year else ""
        stage.console.print(
            Text.assemble((f"   {details.model.id:{width}} {year} ", "dim"), (translation.text, "bold green")), soft_wrap=True
        )
        stage.console.print(
            Text(f"   {'':{width}} {'':{len(year)}} {translation.timings.total_s * 1e3:.1f} ms on the server", "dim")
        )


def translate_with_attention(stage: Stage) -> None:
    """One call; its attention in the terminal and as an image, if the model has attention."""
    text = _sentence(stage, 0)
    is_shown = has_attention(stage.model)
    translation = stage.client.translate(text, model=stage.model_id, return_attention=is_shown)
    _print_pair(stage, text, translation.text)
    stage.console.print(Text(f"   {translation.timings.total_s * 1e3:.1f} ms on the server", "dim"))
    if not is_shown:
        stage.console.print(Text("   this model has no attention", "dim"))
        return
    stage.console.print()
    attention.show(stage.console, translation)
    _draw(stage, translation, "demo-attention.png")


def draw_other_attention(stage: Stage) -> None:
    """The alignment of the same sentence by the task's other models, as images, or a line that a model has none."""
    text = _sentence(stage, 0)
    for details in stage.models[1:]:
        is_shown = has_attention(details)
        translation = stage.client.translate(text, model=details.model.id, return_attention=is_shown)
        stage.console.print(Text.assemble((f"   {details.model.id} → ", "dim"), (translation.text, "bold green")))
        if is_shown:
            _draw(stage, translation, f"demo-attention-{details.model.id}.png")
        else:
            stage.console.print(Text("   this model has no attention", "dim"))


def translate_with_beams(stage: Stage) -> None:
    """The three best hypotheses of beam search with five, with their scores."""
    text = _sentence(stage, 1)
    translation = stage.client.translate(text, model=stage.model_id, beam_size=5, num_hypotheses=3)
    stage.console.print(Text(f"   {text}"))
    for hypothesis in translation.hypotheses:
        stage.console.print(Text.assemble((f" {hypothesis.score:7.3f}  ", "dim"), (hypothesis.text, "bold green")))


def translate_streamed(stage: Stage) -> None:
    """Pieces as they arrive: of greedy search, and of beam search once all hypotheses agree on them."""
    text = _sentence(stage, 2)
    stage.console.print(Text(f"   {text}"))
    _print_stream(stage, text, beam_size=1)
    _print_stream(stage, text, beam_size=4)


def translate_sampled(stage: Stage) -> None:
    """Three random samples; with the seed they are the same at every run."""
    text = _sentence(stage, 3)
    stage.console.print(Text(f"   {text}"))
    sampled = stage.client.translate(text, model=stage.model_id, num_hypotheses=3, temperature=0.8, top_p=0.9, seed=7)
    for hypothesis in sampled.hypotheses:
        stage.console.print(Text.assemble((" → ", "dim"), (hypothesis.text, "bold green")))


def translate_paragraphs(stage: Stage) -> None:
    """A text of several sentences, each translated separately; the text between them is kept."""
    text = _sentence(stage, 4)
    translation = stage.client.translate(text, model=stage.model_id, split_sentences=True, beam_size=5)
    stage.console.print(Text(_indented(text)))
    stage.console.print(Text(_indented(translation.text), "bold green"))


def _print_stream(stage: Stage, text: str, beam_size: int) -> None:
    events = stage.client.translate_stream(text, model=stage.model_id, beam_size=beam_size)
    _print_parts(stage, (event.text for event in events if isinstance(event, TranslationDelta)), beam_size)


def _print_parts(stage: Stage, parts: Iterable[str], beam_size: int) -> None:
    """Prints the parts of one stream as they arrive, with dots between them.

    Raises:
        ToolError: the stream has no parts.
    """
    stage.console.print(Text(" → ", "dim"), end="")
    num_parts = 0
    for part in parts:
        if part:
            stage.console.print(Text(part, "bold green"), Text("·", "dim"), end="", sep="")
            num_parts += 1
    stage.console.print(Text(f"  {num_parts} parts, beam {beam_size}", "dim"))
    if not num_parts:
        raise ToolError(f"{stage.model_id} streamed nothing")


def caption_with_attention(stage: Stage) -> None:
    """A photo and its captions, best first, with an image of the attention for each word."""
    photo = PHOTO.read_bytes()
    caption = stage.client.caption(
        photo, model=stage.model_id, beam_size=5, num_hypotheses=3, return_attention=has_attention(stage.model)
    )
    stage.console.print(Text(f"   {PHOTO.name}: {caption.grid.image_width} × {caption.grid.image_height} pixels", "dim"))
    for hypothesis in caption.hypotheses:
        stage.console.print(Text.assemble((f"   {hypothesis.score:.3f} ", "dim"), (hypothesis.text, "bold green")))
    if caption.best.attention is not None:
        path = file_of(stage, f"caption-{stage.model_id}.png")
        save_stories(path, [(caption, photo)])
        stage.console.print(Text(f"   drawn in {path}", "dim"))


def caption_streamed(stage: Stage) -> None:
    """The words of a caption as they become certain."""
    events = stage.client.caption_stream(PHOTO, model=stage.model_id, beam_size=1)
    _print_parts(stage, (event.text for event in events if isinstance(event, CaptionDelta)), beam_size=1)


def segment_street(stage: Stage) -> None:
    """A street with the classes of its parts; the attention as an image, if the model has attention."""
    is_shown = has_attention(stage.model)
    segmentation = stage.client.segment(
        STREET, model=stage.model_id, return_unary=is_shown, queries=STREET_QUERIES if is_shown else ()
    )
    stage.console.print(Text(f"   {STREET.name}: {segmentation.width} × {segmentation.height} pixels", "dim"))
    stage.console.print(Padding(ClassMapText(segmentation), (0, 0, 0, 3)))
    stage.console.print(Padding(segment.classes_table(segmentation), (0, 0, 0, 3)))
    if segmentation.attention is not None:
        path = file_of(stage, f"segmentation-{stage.model_id}.png")
        save_attention(path, segmentation, STREET.read_bytes())
        stage.console.print(Text(f"   drawn in {path}", "dim"))


def classify_photo(stage: Stage) -> None:
    """A photo with its most probable classes; the attention of each block as an image, if the model has attention."""
    is_shown = has_attention(stage.model)
    answer = stage.client.classify_image(PHOTO, model=stage.model_id, top_k=3, return_attention=is_shown)
    stage.console.print(Text(f"   {PHOTO.name}", "dim"))
    stage.console.print(Padding(classify.classes_table(answer), (0, 0, 0, 3)))
    if answer.attention:
        path = file_of(stage, f"classification-{stage.model_id}.png")
        save_maps(path, [(answer, PHOTO.read_bytes())])
        stage.console.print(Text(f"   drawn in {path}", "dim"))


def classify_clip(stage: Stage) -> None:
    """A rendered clip with its classes; the attention of one position over its frames as an image."""
    queries = [CLIP_QUERY] if has_attention(stage.model) else []
    try:
        answer = stage.client.classify_video(CLIP, model=stage.model_id, queries=queries, return_pictures=True)
    except ExtraMissing as error:
        stage.console.print(Text(f"   {error.message}", "dim"))
        return
    stage.console.print(Text(f"   {CLIP.name}: {answer.clip_frames} frames", "dim"))
    stage.console.print(Padding(classify.classes_table(answer), (0, 0, 0, 3)))
    path = file_of(stage, f"video-{stage.model_id}.png")
    save_frames(path, answer)
    stage.console.print(Text(f"   drawn in {path}", "dim"))


def generate_images(stage: Stage) -> None:
    """Eight images of the model's first class, as a grid; with the seed they are the same at every run."""
    declared, is_shown = stage.model.manifest.single_pass, has_attention(stage.model)
    name, middle = declared.labels[0].name, (declared.generated.width // 2, declared.generated.height // 2)
    answer = stage.client.generate_image(
        name, model=stage.model_id, count=8, seed=7, grid=True, attention_at=middle if is_shown else None
    )
    stage.console.print(Text(f"   {answer.count} images of {answer.width} × {answer.height} pixels: {name}", "dim"))
    path = file_of(stage, f"generation-{stage.model_id}.png")
    if answer.attention is None:
        path.write_bytes(answer.files[0])
    else:
        save_generated(path, answer)
    stage.console.print(Text(f"   drawn in {path}", "dim"))


STEPS = (
    Step(Task.TRANSLATION, "one call, with its alignment", translate_with_attention),
    Step(Task.TRANSLATION, "the same sentence through all models", translate_by_all, compares=True),
    Step(Task.TRANSLATION, "the alignment of the other models", draw_other_attention, compares=True),
    Step(Task.TRANSLATION, "beam 5, the three best with their scores", translate_with_beams),
    Step(Task.TRANSLATION, "streamed, piece by piece", translate_streamed),
    Step(Task.TRANSLATION, "random sampling, with a seed", translate_sampled),
    Step(Task.TRANSLATION, "two paragraphs, sentence by sentence", translate_paragraphs),
    Step(Task.CAPTION, "a photo, with the attention of each word", caption_with_attention),
    Step(Task.CAPTION, "streamed, word by word", caption_streamed),
    Step(Task.SEGMENTATION, "a street, with its classes and the attention of two pixels", segment_street),
    Step(Task.CLASSIFICATION, "a photo, with the attention of each block", classify_photo),
    Step(Task.VIDEO_CLASSIFICATION, "a clip, with the attention of one position over its frames", classify_clip),
    Step(Task.GENERATION, "images of a class, with the self-attention of a pixel", generate_images),
)


def _draw(stage: Stage, translation: Translation, name: str) -> None:
    path = file_of(stage, name)
    attention.save(path, translation)
    stage.console.print(Text(f"   drawn in {path}", "dim"))


def _sentence(stage: Stage, index: int) -> str:
    language = stage.model.manifest.vocabulary.source_language.split("-")[0]
    if language not in _SENTENCES:
        raise ToolError(f"the demo has no sentences for {stage.model_id}, whose source language is {language or 'not declared'}")
    return _SENTENCES[language][index]


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" if line else "" for line in text.splitlines())


def _print_pair(stage: Stage, source: str, target: str) -> None:
    stage.console.print(Text(f"   {source}"))
    stage.console.print(Text.assemble((" → ", "dim"), (target, "bold green")))
