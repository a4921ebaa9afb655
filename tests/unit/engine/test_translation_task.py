# SPDX-License-Identifier: Apache-2.0
"""Text to pieces and back: spans index the original text, and the parts of a stream add up to the whole answer."""

from __future__ import annotations

import functools
import io
import random
import tempfile
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import BundleError
from attnserve_server.tasks.text import Span, begins_word
from attnserve_server.tasks.translation import TranslationTask
from tests.fakes.runner import manifest
from tests.foreign import common

END_ID, UNKNOWN_ID, BEGIN_ID, PAD_ID = common.END_ID, common.UNKNOWN_ID, common.BEGIN_ID, common.PAD_ID


def task_of(pieces: bytes) -> TranslationTask:
    description = manifest(UNKNOWN_ID)
    description.vocabulary.sentencepiece_file = "pieces.model"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pieces.model").write_bytes(pieces)
        return TranslationTask(Bundle(Path(folder), description, description.variants[0]))


@functools.cache
def task() -> TranslationTask:
    return task_of(common.sentencepiece_model())


@pytest.mark.parametrize("pieces", [b"", b"no model", b"\x0a\x00"])
def test_file_that_is_no_sentencepiece_model_is_refused(pieces: bytes) -> None:
    with pytest.raises(BundleError, match=r"pieces\.model is not a SentencePiece model: "):
        task_of(pieces)


@functools.cache
def byte_task() -> TranslationTask:
    """A task whose vocabulary has byte fallback: ids 4 to 259 are the bytes."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(common.sentences()), model_writer=writer, vocab_size=400, model_type="unigram", byte_fallback=True,
        pad_id=PAD_ID, unk_id=UNKNOWN_ID, bos_id=BEGIN_ID, eos_id=END_ID, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return task_of(writer.getvalue())


def check_spans(text: str, spans: list[Span]) -> None:
    """Spans cover their pieces' characters, in order, and only white space is between them."""
    covered = 0
    for span in spans:
        assert text[span.begin : span.end] == span.text
        assert span.begin >= covered
        assert not text[covered : span.begin].strip()
        assert span.text == span.text.lstrip()
        covered = span.end
    assert not text[covered:].strip()


TEXTS = [
    "A dog runs.",
    "  Two leading spaces",
    "two  spaces   within",
    "trailing spaces  ",
    "\ta tab\tand a\nline break\n",
    "Über den Dächern läuft ein Äffchen",
    "e\u0301 decomposed, and E\u0301",
    "A 😀😀 dog 👩‍👩‍👧 runs",
    "😀",
    "中文 and Ελληνικά",
    "\u3000wide space first",
    "no\u00a0break",
    "ﬁne ½ ① Ａ",
    "…",
    "x",
]


@pytest.mark.parametrize("text", TEXTS)
def test_spans_index_the_text(text: str) -> None:
    source = task().encode(text)
    assert len(source.tokens) == len(source.pieces)
    check_spans(text, source.pieces)
    assert source.tokens[-1] == END_ID
    assert source.pieces[-1] == Span("", len(text), len(text))
    assert END_ID not in source.tokens[:-1]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("ab A.,  \t\n"), st.characters(exclude_categories=("Cs", "Cc"))), max_size=30))
def test_spans_of_any_text(text: str) -> None:
    source = task().encode(text)
    assert len(source.tokens) == len(source.pieces)
    for piece in source.pieces:
        assert text[piece.begin : piece.end] == piece.text
    begins = [piece.begin for piece in source.pieces]
    assert begins == sorted(begins)


def test_emoji_is_one_unknown_piece() -> None:
    source = task().encode("A 😀😀 dog")
    unknown = [piece for token, piece in zip(source.tokens, source.pieces, strict=True) if token == UNKNOWN_ID]
    assert Span("😀😀", 2, 4) in unknown


def test_spans_are_in_code_points() -> None:
    source = task().encode("😀 dog")
    assert [piece for piece in source.pieces if piece.text.endswith("dog") or piece.text == "d"][0].begin == 2


def test_empty_text_is_the_end_symbol_alone() -> None:
    assert task().encode("").tokens == [END_ID]
    assert task().encode("  ").pieces == [Span("", 2, 2)]


@pytest.mark.parametrize("text", common.sentences()[:40])
def test_encode_and_render_give_the_text_back(text: str) -> None:
    source = task().encode(text)
    rendered, pieces = task().render(source.tokens)
    assert rendered == text
    check_spans(rendered, pieces)
    assert len(pieces) == len(source.tokens)


def test_render_without_an_end_symbol() -> None:
    tokens = task().encode("A dog runs.").tokens
    assert task().render(tokens[:-1])[0] == "A dog runs."
    assert len(task().render(tokens[:-1])[1]) == len(tokens) - 1
    assert task().render([]) == ("", [])
    assert task().render([END_ID]) == ("", [Span("", 0, 0)])


@pytest.mark.parametrize("seed", range(4))
def test_one_piece_for_each_token_whatever_is_produced(seed: int) -> None:
    """A model may produce padding, unknown and begin as well."""
    rng = random.Random(seed)
    for _ in range(200):
        tokens = [rng.choice([PAD_ID, UNKNOWN_ID, BEGIN_ID]) if rng.random() < 0.2 else rng.randrange(4, 200) for _ in range(9)]
        tokens += [END_ID] * rng.randint(0, 1)
        text, pieces = task().render(tokens)
        assert len(pieces) == len(tokens)
        check_spans(text, pieces)


@pytest.mark.parametrize("seed", range(4))
def test_stream_adds_up_to_the_answer(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        tokens = [rng.randrange(3) if rng.random() < 0.1 else rng.randrange(4, 200) for _ in range(rng.randint(1, 14))]
        tokens += [END_ID] * rng.randint(0, 1)
        sizes = [rng.choice([1, 1, 1, 2, 4]) for _ in tokens]
        assert streamed(task(), tokens, {}, [], sizes) == task().render(tokens)


def streamed(
    of: TranslationTask,
    tokens: list[int],
    copied: dict[int, int],
    source: list[Span],
    sizes: list[int],
    *,
    is_finished: bool = True,
) -> tuple[str, list[Span]]:
    """The joined parts of a stream; spans of each part index the text sent so far."""
    renderer, text, pieces, start = of.stream(source), "", list[Span](), 0
    for size in sizes:
        part = tokens[start : start + size]
        delta, new = renderer.push(part, {i - start: at for i, at in copied.items() if start <= i < start + len(part)})
        text, pieces, start = text + delta, pieces + new, start + len(part)
        check_spans(text, pieces)
    if is_finished:
        delta, new = renderer.finish(tokens, copied)
        text, pieces = text + delta, pieces + new
    return text, pieces


def test_stream_of_a_sentence() -> None:
    for sentence in common.sentences()[:30]:
        renderer = task().stream()
        pushed = [renderer.push([token], {}) for token in task().encode(sentence).tokens]
        assert "".join(delta for delta, _ in pushed) == sentence
        assert pushed[-1] == ("", [Span("", len(sentence), len(sentence))])
        assert all(len(new) == 1 for _, new in pushed)


# --- Unknown symbols ---

SOURCE = "A 😀 dog, 中文x 👍"


def copied(tokens: list[int], *origins: int) -> tuple[str, list[Span]]:
    """Renders tokens whose unknown symbols copy the pieces of SOURCE with these texts' indices, in order."""
    where = [index for index, token in enumerate(tokens) if token == UNKNOWN_ID]
    return task().render(tokens, dict(zip(where, origins, strict=True)), task().encode(SOURCE).pieces)


def place(text: str) -> int:
    return next(index for index, piece in enumerate(task().encode(SOURCE).pieces) if piece.text == text)


def ids(text: str) -> list[int]:
    return task().encode(text).tokens[:-1]


def test_what_begins_a_word() -> None:
    pieces = task().encode(SOURCE).pieces
    found = [piece.text for index, piece in enumerate(pieces[:-1]) if piece.text and begins_word(pieces, index)]
    assert found == ["A", "😀", "dog", "中文", "👍"]


def test_unknown_symbol_is_copied_from_the_source() -> None:
    text, pieces = copied([*ids("A dog"), UNKNOWN_ID, *ids("runs"), END_ID], place("😀"))
    assert text == "A dog 😀 runs"
    assert Span("😀", 6, 7, place("😀")) in pieces
    assert [piece.copied_from for piece in pieces if piece.text != "😀"] == [None] * (len(pieces) - 1)
    check_spans(text, pieces)


@pytest.mark.parametrize(
    ("tokens", "origins", "expected"),
    [
        ([UNKNOWN_ID, *ids("dog")], ["😀"], "😀 dog"),  # nothing before it
        ([*ids("A"), common.tokenizer().piece_to_id("▁"), UNKNOWN_ID], ["😀"], "A 😀"),  # a space is there
        ([*ids("A"), UNKNOWN_ID, UNKNOWN_ID], ["中文", "👍"], "A 中文 👍"),
        ([*ids("A"), UNKNOWN_ID], ["x"], "Ax"),  # within a word
        ([*ids("A"), UNKNOWN_ID, *ids("dog")], [""], "A dog"),  # the end symbol has no characters
    ],
)
def test_space_before_a_copied_word(tokens: list[int], origins: list[str], expected: str) -> None:
    text, pieces = copied(tokens, *map(place, origins))
    assert text == expected
    assert len(pieces) == len(tokens)
    check_spans(text, pieces)


def test_unknown_symbol_without_a_source_is_not_shown() -> None:
    for tokens, expected in [
        ([UNKNOWN_ID], ""),
        ([UNKNOWN_ID, *ids("A dog")], "A dog"),
        ([*ids("A"), UNKNOWN_ID, *ids("dog")], "A dog"),
    ]:
        text, pieces = task().render(tokens)
        assert text == expected
        assert len(pieces) == len(tokens)
        check_spans(text, pieces)


SPECIAL = st.sampled_from([PAD_ID, UNKNOWN_ID, UNKNOWN_ID, BEGIN_ID, common.tokenizer().piece_to_id("▁")])
TOKENS = st.lists(st.one_of(SPECIAL, st.integers(4, common.VOCAB_SIZE - 1)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    tokens=TOKENS,
    has_end=st.booleans(),
    source=st.text(alphabet=st.sampled_from("ab .😀中\u200b½\t"), max_size=12),
    sizes=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    choice=st.randoms(use_true_random=False),
)
def test_stream_with_unknown_symbols(
    tokens: list[int], has_end: bool, source: str, sizes: list[int], choice: random.Random
) -> None:
    tokens = [*tokens, *[END_ID] * has_end]
    pieces = task().encode(source).pieces
    origins = {i: choice.randrange(len(pieces)) for i, token in enumerate(tokens) if token == UNKNOWN_ID and choice.random() < 0.8}
    whole = task().render(tokens, origins, pieces)
    assert "⁇" not in whole[0]
    assert [span.copied_from for span in whole[1]] == [origins.get(index) for index in range(len(tokens))]
    for index, origin in origins.items():
        assert whole[1][index].text == pieces[origin].text
    assert len(whole[1]) == len(tokens)
    check_spans(*whole)
    assert streamed(task(), tokens, origins, pieces, sizes) == whole
    assert streamed(task(), tokens, origins, pieces, sizes, is_finished=False) == whole, "it has no bytes: nothing is kept back"


# --- Bytes ---

BYTES = st.one_of(
    st.binary(min_size=1, max_size=3).map(list), st.sampled_from("é中😀a\u2581").map(lambda letter: list(letter.encode()))
)


@settings(max_examples=300, deadline=None)
@given(
    runs=st.lists(
        st.one_of(BYTES.map(lambda run: [4 + byte for byte in run]), st.lists(st.integers(260, 399), max_size=2)), max_size=6
    ),
    has_end=st.booleans(),
    sizes=st.lists(st.integers(1, 3), min_size=30, max_size=30),
)
def test_stream_of_bytes(runs: list[list[int]], has_end: bool, sizes: list[int]) -> None:
    """A byte that may become a part of a character is held back; one that cannot is shown as a byte."""
    tokens = [token for run in runs for token in run] + [END_ID] * has_end
    whole = byte_task().render(tokens)
    assert len(whole[1]) == len(tokens)
    assert streamed(byte_task(), tokens, {}, [], sizes) == whole


def test_bytes_of_a_character_come_together() -> None:
    renderer = byte_task().stream()
    tokens = [4 + byte for byte in "中😀".encode()]
    assert [renderer.push([token], {})[0] for token in tokens] == ["", "", "中", "", "", "", "😀"]
    assert renderer.push([END_ID], {}) == ("", [Span("", 2, 2)])


# --- The beginning of an answer ---


def test_prefix() -> None:
    prefix = task().encode_prefix(" A  dog")
    assert (prefix.tokens, prefix.unknown) == (ids("A dog"), [])
    assert task().render(prefix.tokens)[0] == "A dog"
    assert task().encode_prefix(" \n").tokens == []
    assert task().encode_prefix("A 😀😀 and 中").unknown == [2, 9]
    assert task().encode_prefix("  中é").unknown[0] == 2
    assert task().encode_prefix("½").unknown
