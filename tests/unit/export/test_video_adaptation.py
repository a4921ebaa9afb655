# SPDX-License-Identifier: Apache-2.0
"""The adaptation of a video classifier to encoded clips: the clips, the directions, the loss, the run, and the selection of its settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import typer

from attnserve_export.models.nonlocal_video import NonlocalHead, NonlocalVideoConfig
from attnserve_export.recipe import RecipeError, load_recipe
from attnserve_export.training.video import encoded, select_adaptation
from attnserve_export.training.video.adapt import Material, adapt, encoding_directions, forget, inconsistency, probabilities, skew
from attnserve_export.training.video.encoded import ENCODINGS, Encoding, through_file
from attnserve_export.training.video.trainer import VideoTrainer
from tests.clips import needs_decoder
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.video_data import ADAPTATION, make_fight_video, recipe

FEW = (Encoding("h264", 64, 48), Encoding("gif", 112, 112))
SMALL_HEAD = NonlocalVideoConfig(2, width=8, bottleneck=4)


def moving_clip(count: int = 32) -> np.ndarray:
    """A white square that moves to the right over colours, more than a GIF file has."""
    rows, columns = np.mgrid[:112, :112]
    clip = np.repeat(np.stack((2 * rows, 2 * columns, rows + columns), -1)[None].astype(np.uint8), count, 0)
    for number, frame in enumerate(clip):
        frame[40:72, 2 * number : 2 * number + 32] = 255
    return clip


@needs_decoder
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: each.name)
def test_a_clip_through_a_file_is_almost_the_same(encoding: Encoding) -> None:
    clip = moving_clip()
    found = through_file(clip, encoding)
    assert (found.shape, found.dtype) == (clip.shape, clip.dtype)
    difference = np.abs(found.astype(int) - clip)
    assert 0 < difference.mean() < 6
    shifted = np.abs(found[:-1].astype(int) - clip[1:]).mean()
    assert difference.mean() < shifted, "frames are in their places"


@needs_decoder
def test_frames_that_a_file_holds_once_are_repeated() -> None:
    still = np.repeat(moving_clip(1), 32, 0)
    assert through_file(still, Encoding("gif", 112, 112)).shape == still.shape


@needs_decoder
def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(RecipeError, match="no encoder for theora; there are h264, vp9, gif"):
        through_file(moving_clip(2), Encoding("theora", 64, 48))


def test_a_missing_encoder_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RecipeError, match=r'pip install "attnserve\[video\]"'):
        through_file(moving_clip(2), FEW[0])


def test_inconsistency_does_not_depend_on_the_scale_of_the_margins() -> None:
    ours, others = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(1)) * 20
    assert inconsistency(ours, ours) == 0
    assert float(inconsistency(ours, others)) == pytest.approx(2, rel=0.5), "unrelated margins differ by twice their variance"
    assert float(inconsistency(3 * ours, 3 * others)) == pytest.approx(float(inconsistency(ours, others)), rel=0.01)
    assert torch.isfinite(inconsistency(torch.zeros(4, 2), torch.zeros(4, 2)))


def material() -> Material:
    """Clips whose class one channel tells, and another one too unless the clip was encoded."""
    rng = np.random.default_rng(3)
    labels = np.arange(24) % 2
    plain = rng.normal(size=(24, 6, 7, 7, 80)).astype(np.float16)
    plain[..., 0] += 2 * labels[:, None, None, None]
    coded = plain.copy()
    plain[..., 1] += 4 * labels[:, None, None, None]
    return Material([plain], [coded], torch.from_numpy(labels))


def test_directions_that_encoding_changes_are_forgotten() -> None:
    data, everything = material(), np.arange(24)
    head = trained_head(data)
    found = encoding_directions(head, data, everything, 1)
    assert abs(float(found[1, 0])) > 0.95, "encoding changes the second channel alone"
    forget(head, found)
    torch.testing.assert_close(head.reduce.weight @ found, torch.zeros(8, 1), atol=1e-5, rtol=0)
    assert float(head.reduce.weight[:, 0].detach().abs().max()) > 0.01, "it still reads the first"
    assert encoding_directions(head, data, everything, 0).shape == (80, 0)


def trained_head(data: Material) -> NonlocalHead:
    """A head that was trained on the plain clips."""
    torch.manual_seed(1)
    head = NonlocalHead(SMALL_HEAD)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    features = torch.from_numpy(data.views[0]).float()
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(head(features)[0], data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def test_adaptation_takes_away_what_encoding_changes() -> None:
    data, everything = material(), np.arange(24)
    options = recipe(adaptation={**ADAPTATION, "epochs": 8, "directions": 0})

    def measured(head: NonlocalHead) -> dict[str, float]:
        return skew(*(probabilities(head, each, everything) for each in (data.views[0], data.encoded[0])))

    head, again = trained_head(data), trained_head(data)
    before = measured(head)
    adapt(head, data, everything, options)
    after = measured(head)
    assert before["same_class"] < 90 < after["same_class"]
    assert after["mean_difference"] < before["mean_difference"] / 2
    assert not head.training
    adapt(again, data, everything, options)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in head.state_dict().items()), "it is reproducible"


def test_skew_counts_classes_and_averages_differences() -> None:
    found = skew(np.array([0.4, 0.6, 0.9, 0.1]), np.array([0.6, 0.6, 0.8, 0.1]))
    assert found == {"same_class": 75.0, "mean_difference": 0.075}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fight_video(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoTrainer:
    made = VideoTrainer(recipe(adaptation=ADAPTATION, data__views=1), data, tmp_path_factory.mktemp("runs") / "adapted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnserve_export.training.video.trainer.ENCODINGS", FEW)
        made.run()
    return made


@needs_decoder
def test_a_run_keeps_both_models_and_reports_the_adapted_one(run: VideoTrainer) -> None:
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["adapted"]["encodings"] == ["h264-64-48", "gif-112-112"]
    assert 0 <= summary["adapted"]["test_accuracy_before"] <= 1
    best, selected = (torch.load(run.folder / name, weights_only=True) for name in ("best.pt", "unadapted.pt"))
    assert best.keys() == selected.keys()
    assert not torch.equal(best["classify.weight"], selected["classify.weight"])
    head = NonlocalHead(SMALL_HEAD)
    head.load_state_dict(best)
    fights = probabilities(head.eval(), run.views[0], run.tested)
    margins = json.loads((run.folder / "predictions.json").read_text())["margins"].values()
    np.testing.assert_allclose(list(margins), np.log(fights / (1 - fights)), atol=1e-3)


@needs_decoder
def test_a_run_that_is_concluded_again_gives_the_same(run: VideoTrainer, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.load(run.folder / "best.pt", weights_only=True)
    monkeypatch.setattr("attnserve_export.training.video.trainer.ENCODINGS", FEW)
    (run.folder / "best.pt").unlink()  # as after a kill between the two models
    VideoTrainer(run.recipe, data, run.folder).run()
    after = torch.load(run.folder / "best.pt", weights_only=True)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@needs_decoder
def test_candidates_are_compared_on_training_clips_held_back(
    run: VideoTrainer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("trainer", "select_adaptation"):
        monkeypatch.setattr(f"attnserve_export.training.video.{module}.ENCODINGS", FEW)
    best = (run.folder / "best.pt").read_bytes()
    again = VideoTrainer(run.recipe, data, run.folder)
    found = select_adaptation.compare_run(again, ["0:0", "3:2"])
    assert list(found) == ["0:0", "3:2"]
    assert list(found["0:0"]["encodings"]) == ["h264-64-48", "gif-112-112"]
    assert found["0:0"] != found["3:2"]
    with pytest.raises(RecipeError, match="WEIGHT:DIRECTIONS, such as 1:10, not 'heavy'"):
        select_adaptation.compare_run(again, ["heavy"])
    assert max(map(max, again.held.values())) < 12, "clips of train"
    assert (run.folder / "best.pt").read_bytes() == best


def test_selection_names_what_is_missing(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        select_adaptation.main(data, tmp_path)
    assert "finish `attnserve train nonlocal-fight` first" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="has no adaptation"):
        select_adaptation.compare_run(VideoTrainer(recipe(), data, tmp_path), ["1:0"])


@pytest.mark.parametrize(("key", "value"), [("epochs", 0), ("consistency", -1.0), ("directions", -1), ("directions", 80)])
def test_a_wrong_adaptation_is_refused(key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=r"adaptation\.directions from 0 to 79"):
        load_recipe("nonlocal-fight", {f"adaptation.{key}": value})


def test_a_recipe_without_an_adaptation_is_read() -> None:
    content = msgspec.to_builtins(recipe())
    assert content["adaptation"] is None
    assert encoded.ENCODINGS, "the shipped recipe has some"
