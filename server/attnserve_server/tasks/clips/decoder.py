# SPDX-License-Identifier: Apache-2.0
"""A process that decodes clips: ``python -m attnserve_server.tasks.clips.decoder``, started by ``processes.py``.

FFmpeg is C that reads bytes of strangers: a fault of it ends this process and one request, not the front with all of them. Files
other than those of the named container cannot be opened, so a playlist cannot name another file or an address.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import resource
import select
import signal
import socket
import sys
import threading
from typing import Any

import msgspec
from PIL import Image

from attnserve_server.process import ignore_stop_signals
from attnserve_server.tasks.clips import wire
from attnserve_server.tasks.clips.wire import Decoded, Refused, Wanted, sample_frames

CODECS = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "vp8", "vp9", "av1", "gif"})
_FORMAT = {"mp4": "mp4", "webm": "matroska", "gif": "gif"}
MIN_SIDE = 16
"""Minimum width and height of a frame in pixels."""
MAX_MEMORY = 1 << 30
"""Address space of the process in bytes."""
MAX_CPU_S = 20
"""Processor time of one clip."""
MAX_WALL_S = 60
"""Time of one clip."""
IDLE_S = 60
"""Time without a clip after which the process ends."""
_NICE = 10
_TURNS = {90: Image.Transpose.ROTATE_90, -90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180}
_TURNS[-180] = _TURNS[180]


class _Bad(Exception):
    """The clip is refused; the text follows the name of the field."""


def decode(data: bytes, wanted: Wanted) -> Decoded | Refused:
    """Decodes a clip, and samples and scales its frames (bicubic). Limits are checked by what the header says before a frame is
    decoded, and by what there is while they are decoded.
    """
    try:
        guess = sample_frames(_num_packets(data, wanted), wanted.frames)
        count, found = frames_of(data, wanted, frozenset(guess))
        indices = sample_frames(count, wanted.frames)
        if not found.keys() >= set(indices):  # packets and frames differ in number
            count, found = frames_of(data, wanted, frozenset(indices))
        seconds = [found[index][0] for index in indices]
        return Decoded(count, indices, seconds, [found[index][1] for index in indices])
    except _Bad as bad:
        return Refused(str(bad))
    except MemoryError:
        return Refused("needs too much memory to be decoded")
    except Exception as error:  # noqa: BLE001 - FFmpeg's decoders raise many types on broken files
        return Refused(f"cannot be decoded: {_in_short(error)}")


def _opened(data: bytes, wanted: Wanted) -> tuple[Any, Any]:
    """Opens a file; returns its container and its first video stream, checked by what the header says."""
    import av

    container: Any = av.open(io.BytesIO(data), format=_FORMAT[wanted.container], metadata_errors="replace")
    try:
        if not container.streams.video:
            raise _Bad("has no video")
        stream = container.streams.video[0]
        _check_header(container, stream, wanted)
    except BaseException:
        container.close()
        raise
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(wanted.limits.max_pixels + (1 << 16))}  # padded
    return container, stream


def _check_header(container: Any, stream: Any, wanted: Wanted) -> None:
    limits, context = wanted.limits, stream.codec_context
    if context is None or context.codec.canonical_name not in CODECS:
        raise _Bad(f"has a codec that is not supported; there are {', '.join(sorted(CODECS))}")
    lasts = [container.duration / 1e6 if container.duration else 0.0]
    if stream.duration and stream.time_base:
        lasts.append(float(stream.duration * stream.time_base))
    if problem := limits.problem_of_seconds(max(lasts)):
        raise _Bad(problem)
    if stream.frames > limits.max_frames:
        raise _Bad(f"must have at most {limits.max_frames:,} frames; its header says {stream.frames:,}")
    _check_size(context.width, context.height, limits)


def _check_size(width: int, height: int, limits: wire.ClipLimits) -> None:
    if problem := limits.problem_of_size(width, height):
        raise _Bad(problem)
    if min(width, height) < MIN_SIDE:
        raise _Bad(f"must have frames of at least {MIN_SIDE} pixels in each direction; it has {width} x {height}")


def _num_packets(data: bytes, wanted: Wanted) -> int:
    """Counts the packets, of which each has a frame as a rule. Nothing is decoded."""
    container, stream = _opened(data, wanted)
    with container:
        count = 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if packet.is_corrupt:
                raise _Bad("cannot be decoded: it is cut off or damaged")
            if count > wanted.limits.max_frames:
                raise _Bad(f"must have at most {wanted.limits.max_frames:,} frames; it has more")
    if not count:
        raise _Bad("has no frame")
    return count


def frames_of(data: bytes, wanted: Wanted, indices: frozenset[int]) -> tuple[int, dict[int, tuple[float, bytes]]]:
    """Decodes all frames; returns their number, and time and pixels of those that are asked for."""
    container, stream = _opened(data, wanted)
    limits, count, found, first = wanted.limits, 0, dict[int, tuple[float, bytes]](), 0.0
    with container:
        for frame in container.decode(stream):
            if count >= limits.max_frames:
                raise _Bad(f"must have at most {limits.max_frames:,} frames; it has more")
            _check_size(frame.width, frame.height, limits)
            time = frame.time if frame.time is not None and math.isfinite(frame.time) else 0.0
            first = time if not count else first
            if time - first > limits.max_seconds:
                raise _Bad(f"must last at most {limits.max_seconds:g} seconds; it lasts longer")
            if count in indices:
                found[count] = max(time - first, 0.0), _pixels(frame, (wanted.width, wanted.height))
            count += 1
    if not count:
        raise _Bad("has no frame")
    return count, found


def _pixels(frame: Any, size: tuple[int, int]) -> bytes:
    """Returns a frame as the model reads it: transparency blended with white, scaled, turned upright; (height, width, 3)."""
    has_alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
    mode = "RGBA" if has_alpha else "RGB"
    plain = frame.reformat(format="rgba" if has_alpha else "rgb24")
    plane = plain.planes[0]
    image = Image.frombytes(mode, (plain.width, plain.height), bytes(plane), "raw", mode, plane.line_size)
    if has_alpha:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    turn = _TURNS.get(frame.rotation)
    target = (size[1], size[0]) if turn not in (None, Image.Transpose.ROTATE_180) else size
    scaled = image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
    return (scaled if turn is None else scaled.transpose(turn)).tobytes()


def _in_short(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error).splitlines()
    return (text[0] if text else type(error).__name__)[:100]


def confine() -> None:
    """Limits what this process may take: memory, priority, no files, no core dump."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def limit_time() -> None:
    """Lets the system end this process when the next clip takes too long."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + MAX_CPU_S, hard))
    signal.alarm(MAX_WALL_S)


def _end_with_the_front(end: socket.socket) -> None:
    """Ends this process as soon as the other end of its socket is closed: nothing needs its answer then. Runs on a thread."""
    poll = select.poll()
    poll.register(end, getattr(select, "POLLRDHUP", 0))  # POLLHUP is always reported
    poll.poll()
    os._exit(0)


def main() -> None:
    """Answers the clips that come over the socket that is standard input, until it is closed or nothing comes for a while."""
    ignore_stop_signals()
    import av
    import av.logging

    av.logging.set_level(None)
    Image.init()
    confine()
    end, decoder = socket.socket(fileno=os.dup(0)), msgspec.msgpack.Decoder(Wanted)
    threading.Thread(target=_end_with_the_front, args=(end,), daemon=True).start()
    wire.send(end, wire.Hello())
    while select.select([end], [], [], IDLE_S)[0]:
        try:
            wanted, data = decoder.decode(wire.receive(end)), wire.receive(end)
        except EOFError:
            return
        limit_time()
        answer = decode(data, wanted)
        del data
        signal.alarm(0)
        if isinstance(answer, Decoded):
            distinct = dict(zip(answer.indices, answer.pixels, strict=True))
            wire.send(end, msgspec.structs.replace(answer, pixels=[]), b"".join(distinct[index] for index in sorted(distinct)))
        else:
            wire.send(end, answer)


if __name__ == "__main__":
    main()
    sys.exit(0)
