# SPDX-License-Identifier: Apache-2.0
"""The check of a served model, with a server on the CPU: its measurements, and that wrong answers are detected."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnserve_loadtest.bench import servers
from attnserve_loadtest.gpu import served
from attnserve_loadtest.gpu.context import Context, sources_of, translate
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.request import DecodeOptions
from tests.driving import DEFAULT_BUNDLE, SENTENCES

NUM_SENTENCES = 4


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Context:
    """The check requests "cuda" and gets a server of few slots on the CPU."""
    ours = servers.our_server

    @contextlib.contextmanager
    def on_cpu(models: Path, variant: str, *flags: str) -> Iterator[str]:
        assert (variant, *flags) == ("auto", "--device", "cuda", "--slots", "64")
        assert [path.name for path in models.iterdir()] == [DEFAULT_BUNDLE.parent.name]
        with ours(models, "fp32", "--device", "cpu", "--slots", "8") as address:
            yield address

    monkeypatch.setattr(servers, "our_server", on_cpu)
    return Context(DEFAULT_BUNDLE.parents[1], SENTENCES[:NUM_SENTENCES], tmp_path / "report.json")


def test_a_served_model_is_asked_and_its_answers_are_compared(asked: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Any] = {}
    served.served(asked, figures)
    assert figures["identical"] == 1.0
    bundle = load_bundle(DEFAULT_BUNDLE)
    answers = translate(asked.engine(DEFAULT_BUNDLE, "cpu", "fp32"), sources_of(bundle, asked.sentences), DecodeOptions())
    tokens_a_request = sum(len(answer.tokens) for answer in answers) / NUM_SENTENCES
    for method in ("Translate", "TranslateStream"):
        entry = figures[f"32 clients, {method}"]
        assert entry["requests"] == 5 * NUM_SENTENCES
        assert entry["tokens_a_second"] / entry["requests_a_second"] == pytest.approx(tokens_a_request, rel=0.02)
        assert entry["cpu_ms_a_request_workers"] > 0
    monkeypatch.setattr(served, "_expected", lambda *_: ["something else"] * NUM_SENTENCES)
    with pytest.raises(AssertionError, match="not those of the CPU"):
        served.served(asked, {})
