# SPDX-License-Identifier: Apache-2.0
"""Fuzz campaigns of hypothesis with a time limit, inputs that are kept in ``tests/corpus``, and mutations of them.

A campaign runs rounds of examples, each with the next seed, until its time is spent; it ends with the least input that fails.
Variables: ``ATTNSERVE_TEST_SEED`` is the first round's seed (else 0, or a random one of a long campaign), which is printed;
``ATTNSERVE_TEST_TIMES`` multiplies the time. After a failure, add
the least input to the corpus: all its files are tested in ``make test``, and campaigns mutate them.
"""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.seeds import VARIABLE

CORPUS = Path(__file__).resolve().parent / "corpus"
SCALE = float(os.environ.get("ATTNSERVE_TEST_TIMES") or 1)
ROUND = 100
"""Examples of a round at most."""
ENOUGH = 200
"""Examples from which on shares of them are checked; a busy machine checks fewer in a campaign's time."""
QUICK, LONG = 1.0, 10.0
"""Factors of a campaign's time: all campaigns take a minute in `make test-load`, and ten more minutes in `make test-all`."""

scales = pytest.mark.parametrize(
    "scale", [pytest.param(QUICK, marks=pytest.mark.load), pytest.param(LONG, marks=[pytest.mark.load, pytest.mark.long])]
)
"""Runs a campaign in both targets."""
EDITS = ("set", "flip", "cut", "insert", "repeat", "end")


def corpus(surface: str) -> dict[str, bytes]:
    """The kept inputs of a surface by file name; ``.hex`` files have hexadecimal digits and white space."""
    found = {}
    for path in sorted((CORPUS / surface).iterdir()):
        data = path.read_bytes()
        found[path.name] = bytes.fromhex(data.decode("ascii")) if path.suffix == ".hex" else data
    return found


def first_seed(scale: float) -> int:
    """The seed of a campaign's first round."""
    given = os.environ.get(VARIABLE)
    return int(given) if given else random.SystemRandom().randrange(10**9) if scale == LONG else 0


def campaign(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], seconds: float, scale: float) -> int:
    """Checks examples until the time is spent; returns their number.

    Raises:
        AssertionError: too few examples were checked; or what the check raises of the least input.
    """
    until, count, number, first = time.monotonic() + seconds * scale * SCALE, 0, 0, first_seed(scale)
    print(f"\n{VARIABLE}={first}")

    def example(value: Any) -> None:
        nonlocal count
        if time.monotonic() < until:
            count += 1
            check(value)

    while time.monotonic() < until:
        phases = (Phase.generate, Phase.shrink)
        limits = settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            phases=phases,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )
        seed(first + number)(limits(given(strategy)(example)))()
        number += 1
    print(f"{count} examples in {number} rounds")
    assert count >= 5
    return count


def edited(data: bytes, kind: str, at: int, size: int, content: bytes) -> bytes:
    """The bytes with one edit at a position, taken modulo the length."""
    at %= len(data) + 1
    match kind:
        case "set":
            return data[:at] + content + data[at + len(content) :]
        case "flip":
            return data[:at] + bytes(byte ^ (1 << size % 8) for byte in data[at : at + 1]) + data[at + 1 :]
        case "cut":
            return data[:at] + data[at + size :]
        case "insert":
            return data[:at] + content + data[at:]
        case "repeat":
            return data[:at] + data[at : at + size] * 2 + data[at + size :]
        case _:
            return data[:at]


def randomly_edited(seeds: Sequence[bytes], seed: int) -> bytes:
    """One of the seeds with up to three edits, always the same ones for a number."""
    rng = random.Random(seed)
    data = rng.choice(seeds)
    for _ in range(rng.randint(1, 3)):
        data = edited(data, rng.choice(EDITS), rng.randrange(2**16), rng.randint(1, 64), rng.randbytes(rng.randint(1, 8)))
    return data


def mutated(seeds: Sequence[bytes], most: int = 6) -> st.SearchStrategy[bytes]:
    """Seeds with up to ``most`` edits."""
    edit = st.tuples(st.sampled_from(EDITS), st.integers(0, 2**16), st.integers(1, 64), st.binary(min_size=1, max_size=8))

    def apply(given: tuple[bytes, list[tuple[str, int, int, bytes]]]) -> bytes:
        data, edits = given
        for each in edits:
            data = edited(data, *each)
        return data

    return st.tuples(st.sampled_from(list(seeds)), st.lists(edit, min_size=1, max_size=most)).map(apply)


NUMBERS = [0, 1, -1, 2, 7, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, 1e308, -0.0, 0.5, float("inf"), float("nan")]
TEXTS = [
    "",
    " ",
    "x",
    "0",
    "-1",
    "²",
    "\x00",
    "é" * 70,
    "../x",
    "/etc/hostname",
    "1e400",
    "NaN",
    "true",
    "AAAA",
    "=",
    "%s%n",
    "{0}",
]
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], [None], {"": ""}, {"a": {"b": [1]}}]
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys or indices."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def json_mutated(seeds: Sequence[bytes], most: int = 4) -> st.SearchStrategy[bytes]:
    """JSON seeds with values replaced, removed, doubled, or moved to another place."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        value = {"": json.loads(draw(st.sampled_from(list(seeds))))}
        for _ in range(draw(st.integers(1, most))):
            found = list(places(value))
            if not found:
                break
            holder, key = found[draw(st.integers(0, len(found) - 1))]
            other, other_key = found[draw(st.integers(0, len(found) - 1))]
            match draw(st.sampled_from(["replace", "replace", "integer", "remove", "double", "move", "rename"])):
                case "replace":
                    holder[key] = copy.deepcopy(draw(ODD))
                case "integer":
                    holder[key] = draw(st.integers(-(2**33), 2**33) | st.integers(0, 300))
                case "remove" if holder is not value:
                    del holder[key]
                case "double" if isinstance(holder, list):
                    holder.insert(key, copy.deepcopy(holder[key]))
                case "rename" if isinstance(holder, dict) and holder is not value:
                    holder[draw(st.sampled_from(TEXTS))] = holder.pop(key)
                case _:
                    holder[key] = copy.deepcopy(other[other_key])
        return json.dumps(value.get("")).encode()

    return strategy()
