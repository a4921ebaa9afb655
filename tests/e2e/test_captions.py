# SPDX-License-Identifier: Apache-2.0
"""CaptionService over gRPC: answers, options, streams, batch mates, and files that are not images."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from attnserve.v1 import decoding_pb2
from attnserve.v1.decoding_pb2 import DecodeOptions, SamplingOptions
from tests.e2e.captioning import MODEL, PHOTO, caption, serve_captions, start_caption
from tests.e2e.serving import SENTENCES, STREAM, UNARY, Server, ask, details, eventually, start_unary, texts
from tests.photos import PHOTOS, encoded, variations

MEAN = decoding_pb2.ATTENTION_DETAIL_MEAN
both = pytest.mark.parametrize("kind", [UNARY, STREAM])


def test_an_answer_says_what_was_seen_and_where(server: Server, channel: grpc.Channel) -> None:
    answer = caption(channel, options=DecodeOptions(beam_size=5, return_attention=MEAN))
    best = answer.hypotheses[0]
    assert (answer.model, answer.version, len(answer.hypotheses)) == (MODEL, "1", 1)
    assert 3 < len(best.text.split()) < 20
    assert best.text == best.text.lower().strip()
    assert [best.text[piece.begin : piece.end] for piece in best.pieces] == [piece.text for piece in best.pieces]
    assert best.finish_reason == decoding_pb2.FINISH_REASON_STOP
    assert (answer.grid.rows, answer.grid.columns, answer.grid.image_width, answer.grid.image_height) == (7, 7, 400, 400)
    (attention,) = best.attention
    weights = np.array(attention.weights).reshape(attention.num_target, attention.num_source)
    assert weights.shape == (len(best.pieces), 49)
    assert np.abs(weights.sum(1) - 1).max() < 1e-5
    assert weights.std(0).max() > 1e-3, "it looks elsewhere for each word"
    times = answer.timings
    assert 0 < times.encode_seconds <= times.total_seconds
    prepared = server.scrape().total("attnserve_image_preparation_duration_seconds_sum", model=MODEL)
    assert prepared > 0
    assert times.queue_seconds + times.encode_seconds + times.decode_seconds <= times.total_seconds


def test_options(channel: grpc.Channel) -> None:
    five = caption(channel, options=DecodeOptions(beam_size=5, num_hypotheses=5)).hypotheses
    assert len({each.text for each in five}) == 5
    assert [each.score for each in five] == sorted((each.score for each in five), reverse=True)
    assert caption(channel, options=DecodeOptions(prefix="Two dogs", beam_size=3)).hypotheses[0].text.startswith("two dogs ")
    short = caption(channel, options=DecodeOptions(max_tokens=2)).hypotheses[0]
    assert (len(short.text.split()), short.finish_reason) == (2, decoding_pb2.FINISH_REASON_LENGTH)
    assert len(caption(channel, options=DecodeOptions(min_tokens=25, max_tokens=30)).hypotheses[0].text.split()) >= 25
    words = caption(channel, options=DecodeOptions(no_repeat_ngram_size=1, min_tokens=15)).hypotheses[0].text.split()
    assert len(words) == len(set(words))
    sampled = DecodeOptions(num_hypotheses=4, sampling=SamplingOptions(seed=5, temperature=1.5))
    drawn = [[each.text for each in caption(channel, options=sampled).hypotheses] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
    assert caption(channel, options=DecodeOptions(omit_score=True)).hypotheses[0].score == 0
    assert caption(channel, options=DecodeOptions(beam_size=4, coverage_penalty=0.2, length_penalty=0.5, repetition_penalty=1.2))


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_stream_says_the_same(channel: grpc.Channel, beam_size: int) -> None:
    options = DecodeOptions(beam_size=beam_size)
    for path in PHOTOS:
        whole, streamed = (caption(channel, path.read_bytes(), options, kind=kind) for kind in (UNARY, STREAM))
        assert whole.hypotheses == streamed.hypotheses
        assert whole.grid == streamed.grid


@pytest.mark.parametrize("options", [DecodeOptions(return_attention=MEAN), DecodeOptions(beam_size=5, num_hypotheses=5)])
def test_batch_mates_change_nothing(channel: grpc.Channel, options: DecodeOptions) -> None:
    images = variations(24)
    alone = [caption(channel, image, options).hypotheses for image in images]
    others = [start_unary(channel, sentence, DecodeOptions(beam_size=4)) for sentence in SENTENCES[:20]]
    for order in (range(24), reversed(range(24))):
        together = {index: start_caption(channel, images[index], options) for index in order}
        for index, future in together.items():
            assert future.result().hypotheses == alone[index]
    assert all(each.result().hypotheses for each in others)


def refused(channel: grpc.Channel, image: bytes = PHOTO, kind: str = UNARY, **fields: object) -> tuple[grpc.StatusCode, str, str]:
    """Status, field and text of an error."""
    with pytest.raises(grpc.RpcError) as raised:
        caption(channel, image, kind=kind, **fields)
    (field,) = details(raised.value).fields
    return raised.value.code(), field, str(raised.value.details())


@both
def test_request_for_a_model_of_another_task_is_refused(channel: grpc.Channel, kind: str) -> None:
    code, field, text = refused(channel, kind=kind, model="transformer-en-de")
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "model")
    assert text == "the model transformer-en-de does not describe images"
    assert refused(channel, kind=kind, model="nobody")[:2] == (grpc.StatusCode.NOT_FOUND, "model")
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, SENTENCES[0], kind=kind, model=MODEL)
    assert details(raised.value).fields == ("model",)


@both
def test_words_that_no_caption_has(channel: grpc.Channel, kind: str) -> None:
    code, field, text = refused(channel, kind=kind, options=DecodeOptions(prefix="a zeppelin"))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "options.prefix")
    assert "lacks, at 2 (" in text
    assert "zeppelin" not in text


@both
@pytest.mark.parametrize("prefix", ["\u200b", "\u2060\ufe0f", "\u2581"])
def test_prefix_of_a_caption_without_characters(channel: grpc.Channel, kind: str, prefix: str) -> None:
    code, field, text = refused(channel, kind=kind, options=DecodeOptions(prefix=prefix))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "options.prefix")
    assert "only white space" in text


def truncated() -> bytes:
    return PHOTO[: len(PHOTO) // 3]


def bomb() -> bytes:
    """A PNG of 20,000 × 20,000 white pixels, in some kilobytes."""
    return encoded(Image.new("1", (20_000, 20_000), 1), "PNG")


def animation() -> bytes:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    return encoded(images[0], "WEBP", save_all=True, append_images=images[1:])


BAD = {
    "empty": (lambda: b"", "must not be empty"),
    "truncated": (truncated, "cannot be decoded"),
    "bomb": (bomb, "pixels"),
    "one-pixel": (lambda: encoded(Image.new("RGB", (1, 1)), "PNG"), "at least 16 pixels"),
    "a-line": (lambda: encoded(Image.new("RGB", (20_000, 1)), "PNG"), "at least 16 pixels"),
    "animated": (animation, "animation"),
    "text": (lambda: b"I am a photo, I promise.", "not a JPEG, PNG or WebP"),
    "gif": (lambda: encoded(Image.new("RGB", (64, 64)), "GIF"), "not a JPEG, PNG or WebP"),
    "large": (lambda: PHOTO + bytes(10_000_000), "at most 10,000,000 bytes"),
}


@both
@pytest.mark.parametrize("name", BAD)
def test_bad_images(server: Server, channel: grpc.Channel, name: str, kind: str) -> None:
    make, text = BAD[name]
    expected = texts(ask(channel, SENTENCES[0]))
    neighbour = start_unary(channel, SENTENCES[0])
    code, field, said = refused(channel, make(), kind=kind)
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "image")
    assert said.startswith("image ")
    assert text in said
    assert texts(neighbour.result()) == expected
    server.assert_unharmed()
    assert caption(channel).hypotheses
    assert server.scrape().total("attnserve_requests_rejected_total", model=MODEL, reason="invalid_request") > 0


def test_a_message_that_is_too_large(server: Server, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        caption(channel, bytes(13 * 1024 * 1024))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    server.assert_unharmed()


def mutated(rng: random.Random, good: list[bytes]) -> bytes:
    """A file with bytes changed, cut out, put in, or cut off."""
    data = bytearray(rng.choice(good))
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at, kind = rng.randrange(len(data)), rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(0, 40))
        elif kind == 2:
            data[min(at, 200)] ^= 1 << rng.randrange(8)  # in the headers
        elif kind == 3 and rng.random() < 0.2:
            del data[max(at, 20) :]
        else:
            begin = rng.randrange(len(data))
            data[at:at] = data[begin : begin + rng.randrange(1, 60)]
    return bytes(data)


@pytest.mark.timeout(300)
def test_two_thousand_mutated_images(server: Server, channel: grpc.Channel) -> None:
    rng, small = random.Random(6), [Image.open(path).convert("RGB").resize((96, 64)) for path in PHOTOS]
    exif = Image.Exif()
    exif[0x0112] = 6
    good = [encoded(each, "JPEG", quality=60, exif=exif) for each in small]
    good += [encoded(each, "JPEG", quality=60, progressive=True) for each in small[:2]]
    good += [encoded(each, "PNG") for each in small[:2]] + [
        encoded(small[0].convert("P"), "PNG"),
        encoded(small[1].convert("LA"), "PNG"),
    ]
    good += [encoded(each, "WEBP", quality=60) for each in small[:2]] + [encoded(small[2].convert("RGBA"), "WEBP", lossless=True)]
    good.append(encoded(small[0].convert("CMYK"), "JPEG"))
    statuses: Counter[grpc.StatusCode] = Counter()
    limit = threading.Semaphore(24)
    calls = []
    for _ in range(2000):
        limit.acquire()
        call = start_caption(channel, mutated(rng, good), DecodeOptions(max_tokens=5))
        call.add_done_callback(lambda _: limit.release())
        calls.append(call)
    for call in calls:
        error = call.exception()
        if error is None:
            statuses[grpc.StatusCode.OK] += 1
            continue
        assert isinstance(error, grpc.RpcError)
        statuses[error.code()] += 1
        assert details(error).fields == ("image",), error
    assert set(statuses) == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}, statuses
    assert min(statuses.values()) > 200, statuses
    server.assert_unharmed()
    eventually(lambda: server.scrape().total("attnserve_slots", state="used") == 0, "all slots free")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attnserve_client.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATTNSERVE_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_the_command(server: Server, channel: grpc.Channel, tmp_path: Path) -> None:
    expected = caption(channel, options=DecodeOptions(beam_size=5)).hypotheses[0].text
    story = tmp_path / "story.png"
    done = run("caption", PHOTOS[0], "--address", server.target, "--beam-size", 5, "--attention", story)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr
    with Image.open(story) as picture:
        assert picture.width > 500
        assert picture.height > 300
    streamed = run("caption", PHOTOS[0], "--address", server.target, "--beam-size", 5, "--stream")
    assert streamed.stdout == f"{expected}\n"
    answer = json.loads(run("caption", PHOTOS[0], "--address", server.target, "--json").stdout)
    assert answer["grid"] == {"rows": 7, "columns": 7, "image_width": 400, "image_height": 400}


def test_the_command_on_folders(server: Server, channel: grpc.Channel, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in PHOTOS:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("not looked at", encoding="utf-8")
    expected = [f"{folder / path.name}\t{caption(channel, path.read_bytes()).hypotheses[0].text}" for path in PHOTOS]
    done = run("caption", folder, "--address", server.target)
    assert (done.returncode, done.stdout.splitlines()) == (0, expected), done.stderr
    (folder / "broken.jpg").write_bytes(b"no photo")
    done = run("caption", folder, "--address", server.target)
    assert (done.returncode, done.stdout.splitlines()) == (1, expected)
    assert "broken.jpg" in done.stderr
    assert f"1 of {len(PHOTOS) + 1} images could not be described" in done.stderr
    for arguments, text in ((["nowhere.jpg"], "no file or folder nowhere.jpg"), ([tmp_path / "empty"], "no image in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        done = run("caption", *arguments, "--address", server.target)
        assert done.returncode == 1
        assert text in " ".join(done.stderr.split())


def test_equal_images_share_an_answer(tmp_path: Path) -> None:
    setting = tmp_path / "server.toml"
    setting.write_text("[cache]\nmax_bytes = 10000000\n", encoding="utf-8")
    with serve_captions(tmp_path, "--workers", "1", "--config", str(setting)) as server, server.channel() as channel:
        first, again = caption(channel), caption(channel)
        other = caption(channel, PHOTOS[1].read_bytes())
        assert first.hypotheses == again.hypotheses != other.hypotheses
        metrics = server.scrape()
        assert metrics.total("attnserve_cache_requests_total", model=MODEL, result="hit") == 1
        assert metrics.total("attnserve_cache_requests_total", model=MODEL, result="miss") == 2


@pytest.mark.load
def test_phones_photos_do_not_hold_up_others(server: Server, channel: grpc.Channel) -> None:
    photo = encoded(Image.open(io.BytesIO(PHOTO)).resize((4032, 3024)), "JPEG", quality=90)
    assert caption(channel, photo).grid.image_width == 4032
    large = [start_caption(channel, photo) for _ in range(8)]
    assert texts(ask(channel, SENTENCES[0], timeout=1.0))
    assert len({each.result().hypotheses[0].text for each in large}) == 1
    server.assert_unharmed()
