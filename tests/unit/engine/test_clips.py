# SPDX-License-Identifier: Apache-2.0
"""Clips to the sampled frames of a model: sampling, files and frames, limits, broken files, and the processes that decode."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from attnserve_server.errors import ExecutionFailed, ExtraMissing, InvalidRequest, Overloaded
from attnserve_server.process import STOP_SIGNALS
from attnserve_server.tasks.clips import decoder
from attnserve_server.tasks.clips.clip import ClipShape, check_clip, read_frames, read_video
from attnserve_server.tasks.clips.files import container_of, is_cut_off
from attnserve_server.tasks.clips.processes import Decoding, check_decoder
from attnserve_server.tasks.clips.wire import ClipLimits, Decoded, Refused, Wanted, sample_frames
from tests import clips
from tests.clips import clip_file, moving, needs_decoder, png
from tests.fuzzing import randomly_edited

LIMITS = ClipLimits(max_bytes=1_000_000, max_frames=100, max_pixels=100_000, max_seconds=30.0)
SHAPE = ClipShape(8, (32, 24), (2, 3, 4), 2, 3)
KINDS = sorted(clips.FILES)


def decoded(data: bytes, limits: ClipLimits = LIMITS) -> Decoded | Refused:
    check_clip(data, (), limits)
    container = container_of(data)
    assert container is not None
    return decoder.decode(data, Wanted(container, limits, SHAPE.frames, *SHAPE.size))


def refusal(data: bytes = b"", frames: tuple[bytes, ...] = (), limits: ClipLimits = LIMITS) -> InvalidRequest:
    """The error of a clip, by whatever step refuses it."""
    try:
        check_clip(data, frames, limits)
        if frames:
            read_frames(frames, limits, SHAPE)
    except InvalidRequest as error:
        return error
    found = decoded(data, limits)
    assert isinstance(found, Refused)
    return InvalidRequest(f"video {found.text}", field="video")


def test_frames_are_sampled_evenly_and_repeated_in_short_clips() -> None:
    assert sample_frames(32, 32) == list(range(32))
    assert sample_frames(1, 4) == [0, 0, 0, 0]
    assert sample_frames(3, 5) == [0, 0, 1, 2, 2], "a half is rounded to the even number"
    assert sample_frames(9, 1) == [0]
    with pytest.raises(ValueError, match="at least one frame"):
        sample_frames(0, 32)


@needs_decoder
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_frames_of_a_file_are_those_of_its_frames(kind: str) -> None:
    found = decoded(clip_file(kind))
    wanted = read_frames([png(frame) for frame in moving(20)], LIMITS, SHAPE)
    assert isinstance(found, Decoded)
    assert (found.count, found.indices) == (20, wanted.indices)
    np.testing.assert_allclose(found.seconds, np.array(wanted.indices) / clips.RATE, atol=0.011)
    for ours, theirs in zip(found.pixels, wanted.pixels, strict=True):
        difference = np.frombuffer(ours, np.uint8).astype(float) - np.frombuffer(theirs, np.uint8)
        assert np.abs(difference).mean() < (45 if kind == "gif" else 25), "compression loses some"


@needs_decoder
def test_file_with_sound_is_read() -> None:
    found = decoded(clips.with_sound())
    assert isinstance(found, Decoded)
    assert found.count == 20


@needs_decoder
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_upright(degrees: int) -> None:
    square = Wanted("mp4", LIMITS, 1, 24, 24)
    plain, turned = decoder.decode(clip_file(), square), decoder.decode(clips.turned(degrees), square)
    assert isinstance(plain, Decoded)
    assert isinstance(turned, Decoded)
    before, after = (np.frombuffer(each.pixels[0], np.uint8).reshape(24, 24, 3) for each in (plain, turned))
    np.testing.assert_array_equal(after, np.rot90(before, -degrees // 90), "the matrix turns clockwise")


REFUSED = {
    "nothing": (b"", "must not be empty; or send frames"),
    "text": (b"I am a film, I promise.", "is not an MP4, WebM or GIF file"),
    "an empty MP4 file": (b"\0\0\0\x08ftyp", "cut off"),
    "too many bytes": (b"GIF89a" + b"\0" * 1_000_000, "must have at most 1,000,000 bytes; it has 1,000,006"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_clip_is_refused(name: str) -> None:
    data, text = REFUSED[name]
    error = refusal(data)
    assert error.field == "video"
    assert text in error.message


@needs_decoder
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_file_that_is_cut_off_is_refused(kind: str, share: float) -> None:
    data = clip_file(kind)
    assert not is_cut_off(data, str(container_of(data)))
    error = refusal(data[: int(share * len(data)) - 1])
    assert error.field == "video"


BEHIND = [b"x", b"junk", b"\0" * 5, b"\0" * 100, b"a text that is no box", b"\xff" * 50, b"\0\0\0\1trak", b"\0\0\0\x08free"]


@needs_decoder
@pytest.mark.parametrize("behind", BEHIND)
def test_other_bytes_behind_an_mp4_file_are_ignored(behind: bytes) -> None:
    assert decoded(clip_file() + behind) == decoded(clip_file())


@needs_decoder
@pytest.mark.parametrize("behind", [b"\0\0\1\0mdat", b"\0\0\1\0moof", b"\0\0\1\0moov", b"\0\0\0\1mdat"])
def test_part_of_a_box_with_frames_behind_an_mp4_file_is_refused(behind: bytes) -> None:
    assert "the file is cut off" in refusal(clip_file() + behind).message


@needs_decoder
def test_mp4_file_in_fragments_is_read_whole_or_refused() -> None:
    data = clips.fragmented()
    whole = decoded(data)
    assert isinstance(whole, Decoded)
    assert whole.count == 20
    last = data.rindex(b"moof") - 4
    for end in (last + 3, last + 12, len(data) - 1):
        assert "the file is cut off" in refusal(data[:end]).message


@needs_decoder
@pytest.mark.parametrize("side", [400, 5_000, 20_000, 65_535])
def test_gif_file_that_claims_many_pixels_is_refused_with_its_size(side: int) -> None:
    data = clips.replaced(clip_file("gif"), b"GIF89a", 6, side.to_bytes(2, "little") * 2)
    assert f"must have frames of at most 100,000 pixels; it has {side} x {side}" in refusal(data).message


@needs_decoder
@pytest.mark.parametrize("milliseconds", [math.nan, math.inf, -math.inf, -5.0, 0.0, 1e-300, 1e18, 1e300])
def test_webm_file_that_claims_no_possible_duration_lasts_as_long_as_its_frames(milliseconds: float) -> None:
    assert decoded(clips.webm_of(milliseconds)) == decoded(clip_file("webm"))
    short = msgspec.structs.replace(LIMITS, max_seconds=1.0)
    assert "must last at most 1 seconds; it lasts longer" in refusal(clips.webm_of(milliseconds), limits=short).message


@needs_decoder
@pytest.mark.parametrize(("milliseconds", "text"), [(30_040.0, "30.1"), (31_000.0, "31"), (1e10, "10000000")])
def test_duration_above_the_limit_is_not_rounded_to_the_limit(milliseconds: float, text: str) -> None:
    message = refusal(clips.webm_of(milliseconds)).message
    assert message == f"video must last at most 30 seconds; its header says {text}"


@needs_decoder
def test_claims_of_the_header_are_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "frames_of", lambda *_: pytest.fail("decoded"))
    for kind in ("mp4", "webm"):
        assert "must last at most 30 seconds; its header says 36000" in refusal(clips.of_ten_hours(kind)).message
    assert "must have at most 100 frames; its header says 1,000,000" in refusal(clips.of_a_million_frames()).message
    small = msgspec.structs.replace(LIMITS, max_pixels=3000)
    assert "must have frames of at most 3,000 pixels; it has 64 x 48" in refusal(clip_file(), limits=small).message
    for kind in KINDS:  # formats without a number of frames in the header have packets that are counted
        few = msgspec.structs.replace(LIMITS, max_frames=19)
        assert "must have at most 19 frames" in refusal(clip_file(kind), limits=few).message


@needs_decoder
def test_tiny_frames_are_refused() -> None:
    assert "at least 16 pixels in each direction; it has 64 x 8" in refusal(clip_file("gif", 3, 64, 8)).message


def test_frames_have_limits_and_errors_name_the_frame() -> None:
    frame = png(moving(1)[0])
    assert refusal(frames=(frame,) * 101).message == "frames must be at most 100; there are 101"
    small = msgspec.structs.replace(LIMITS, max_bytes=3 * len(frame) - 1)
    assert refusal(frames=(frame,) * 3, limits=small).field == "frames"
    error = refusal(frames=(frame, b"junk", frame))
    assert (error.field, error.message.split(" ")[:3]) == ("frames[1]", ["frames[1]", "is", "not"])
    assert refusal(frames=(frame, b"")).message == "frames[1] must not be empty"
    tight = msgspec.structs.replace(LIMITS, max_pixels=100)
    assert "frames[0] must have at most 100 pixels" in refusal(frames=(frame,), limits=tight).message
    with pytest.raises(InvalidRequest, match="exclude each other"):
        check_clip(b"x", [frame], LIMITS)


def test_positions_have_cells() -> None:
    assert [SHAPE.time_of(frame) for frame in range(8)] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert SHAPE.cell_of(0, 0.0, 0.0) == 0
    assert SHAPE.cell_of(7, 1.0, 1.0) == SHAPE.num_cells - 1
    assert SHAPE.cell_of(2, 0.5, 0.34) == 6


@pytest.fixture
def decoding() -> Iterator[Decoding]:
    made = Decoding()
    yield made
    made.close()


@needs_decoder
@pytest.mark.timeout(120)
def test_process_answers_one_clip_after_the_other(decoding: Decoding) -> None:
    for kind in ("mp4", "gif", "mp4"):
        clip = read_video(clip_file(kind), LIMITS, SHAPE, decoding.decode)
        wanted = decoded(clip_file(kind))
        assert isinstance(wanted, Decoded)
        assert (clip.count, clip.indices, clip.pixels) == (wanted.count, wanted.indices, wanted.pixels)
    with pytest.raises(InvalidRequest, match=r"video (has no video|cannot be decoded)"):
        decoding.decode(clip_file()[:40], Wanted("mp4", LIMITS, 8, 32, 24))
    assert len(decoding.idle_pids()) == 1, "the same process has answered"


@needs_decoder
@pytest.mark.timeout(120)
def test_signals_that_stop_a_server_end_no_decoder(decoding: Decoding) -> None:
    read_video(clip_file(), LIMITS, SHAPE, decoding.decode)
    (pid,) = decoding.idle_pids()
    for number in STOP_SIGNALS:
        os.kill(pid, number)
    assert read_video(clip_file(), LIMITS, SHAPE, decoding.decode).count == 20
    assert decoding.idle_pids() == [pid]


@needs_decoder
@pytest.mark.timeout(300)
def test_500_mutated_clips_are_decoded_or_refused(decoding: Decoding) -> None:
    files, ends = [clip_file(kind, 12) for kind in KINDS], Counter[bool]()
    for seed in range(500):
        data = randomly_edited(files, seed)
        began = time.monotonic()
        try:
            check_clip(data, (), LIMITS)
            assert read_video(data, LIMITS, SHAPE, decoding.decode).count > 0
            ends[True] += 1
        except InvalidRequest as error:
            assert error.field == "video"  # noqa: PT017
            assert error.message.isprintable()  # noqa: PT017
            ends[False] += 1
        assert time.monotonic() - began < decoder.MAX_CPU_S + 10
    assert min(ends.values()) > 25, "both ends are common"
    assert read_video(clip_file(), LIMITS, SHAPE, decoding.decode).count == 20, "nothing is lost"


HELLO = "import os, signal, socket, time; from attnserve_server.tasks.clips import wire\nend = socket.socket(fileno=os.dup(0)); "


def faulty(does: str, timeout_s: float = 30.0) -> Decoding:
    """A process that says hello, takes a file, and then does this."""
    program = HELLO + f"wire.send(end, wire.Hello()); wire.receive(end); wire.receive(end); {does}"
    return Decoding((sys.executable, "-c", program), timeout_s)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("does", "error", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", InvalidRequest, "the decoder failed"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", InvalidRequest, "takes too long"),
        ("os.kill(os.getpid(), signal.SIGALRM)", InvalidRequest, "takes too long"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Overloaded, "try again"),
        ("os._exit(3)", InvalidRequest, "the decoder failed"),
    ],
)
def test_process_that_ends_at_a_file_fails_only_that_request(does: str, error: type[Exception], text: str) -> None:
    decoding = faulty(does)
    with pytest.raises(error, match=text):
        decoding.decode(b"GIF89a", Wanted("gif", LIMITS, 8, 32, 24))
    assert not decoding.idle_pids()


@pytest.mark.timeout(120)
def test_process_that_hangs_is_ended() -> None:
    decoding = faulty("signal.pause()", timeout_s=0.5)
    with pytest.raises(InvalidRequest, match="takes too long"):
        decoding.decode(b"GIF89a", Wanted("gif", LIMITS, 8, 32, 24))
    assert not decoding.idle_pids()


@pytest.mark.timeout(120)
def test_idle_process_that_has_ended_is_replaced() -> None:
    refuses = "wire.send(end, wire.Refused('is dull'))"
    decoding = faulty(refuses)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="video is dull"):
            decoding.decode(b"GIF89a", Wanted("gif", LIMITS, 8, 32, 24))
        (pid,) = decoding.idle_pids()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.timeout(120)
def test_process_that_does_not_start_is_an_internal_error() -> None:
    with pytest.raises(ExecutionFailed, match="no decoder for video files starts"):
        Decoding((sys.executable, "-c", "1 / 0")).decode(b"", Wanted("gif", LIMITS, 8, 32, 24))
    with pytest.raises(Overloaded, match="no process for video files now"):
        Decoding(("/nowhere/python",)).decode(b"", Wanted("gif", LIMITS, 8, 32, 24))


@needs_decoder
@pytest.mark.timeout(120)
def test_process_has_limits() -> None:
    program = (
        "import resource, signal; from attnserve_server.tasks.clips import decoder; decoder.confine(); decoder.limit_time()\n"
        "assert resource.getrlimit(resource.RLIMIT_AS)[0] == decoder.MAX_MEMORY and resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 0\n"
        "assert signal.alarm(0) > 0; decoder.MAX_CPU_S = 1; decoder.limit_time()\nwhile True: pass"
    )
    with pytest.raises(InvalidRequest, match="takes too long"):
        Decoding((sys.executable, "-c", f"{HELLO}wire.send(end, wire.Hello()); {program}")).decode(
            b"", Wanted("gif", LIMITS, 8, 32, 24)
        )


def test_missing_decoder_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r'pip install "attnserve\[video\]"'):
        check_decoder()
