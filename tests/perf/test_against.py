# SPDX-License-Identifier: Apache-2.0
"""The comparison of two trees detects 60 µs more processor time per request, and no difference between a tree and itself.

The answers are short, so that a request takes a third of the time of the bench's own points, and few requests are enough. The bars
are half-way between 1 and the ratio with the planted wait (about 1.12).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attnserve.v1.decoding_pb2 import DecodeOptions
from attnserve_loadtest.bench.against import Bars, Comparison, Point, measure_pair
from attnserve_loadtest.bench.servers import UNARY
from attnserve_loadtest.bench.trees import FOLDERS, Tree
from tests.e2e.serving import MODELS, SENTENCES

ROOT = Path(__file__).parents[2]
BUNDLE = MODELS / "transformer-en-de" / "1"
POINT = Point("short answers", UNARY, 96, 225, DecodeOptions(max_tokens=1, omit_score=True))
BARS, PAIRS = Bars(1.06, 1.09), 5
PLANT = """
import functools, time
import grpc

def burn(deserialize, data):
    until = time.thread_time() + 60e-6
    while time.thread_time() < until:
        pass
    return deserialize(data) if deserialize else data

def planted(make):
    return lambda behavior, request_deserializer=None, response_serializer=None: make(
        behavior, functools.partial(burn, request_deserializer), response_serializer
    )

grpc.stream_unary_rpc_method_handler = planted(grpc.stream_unary_rpc_method_handler)
grpc.stream_stream_rpc_method_handler = planted(grpc.stream_stream_rpc_method_handler)
"""
"""Adds 60 µs of processor time to each request, in the server's thread; ``site`` loads it before any module of the tree."""


def compare(new: Tree) -> Comparison:
    texts = [" ".join(text.split()[:4]) for text in SENTENCES]
    found = Comparison(POINT, [measure_pair((Tree.of(ROOT), new), BUNDLE, texts, [POINT], lambda: None)[0] for _ in range(PAIRS)])
    print(
        f"median {found.median:.3f}, upper quartile {found.upper_quartile:.3f}; {1e3 * found.pairs[0][0].processor:.3f} ms a request"
    )
    print(*(f"{ratio:.3f}" for ratio in found.ratios))
    return found


def planted_copy(folder: Path) -> Tree:
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    (folder / FOLDERS[0] / "sitecustomize.py").write_text(PLANT)
    return Tree.of(folder)


@pytest.mark.timeout(300)
def test_a_tree_compared_with_itself_is_within_the_bars() -> None:
    assert compare(Tree.of(ROOT)).is_within(BARS)


@pytest.mark.timeout(300)
def test_sixty_microseconds_more_in_each_request_exceed_the_bars(tmp_path: Path) -> None:
    assert not compare(planted_copy(tmp_path / "copy")).is_within(BARS)
