# SPDX-License-Identifier: Apache-2.0
"""The training of a captioning model on a few photos: views, words, selection, and a run that is killed and continues."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from attnserve_client.evaluation import caption_words
from attnserve_export.recipe import CaptionRecipe, RecipeError, load_recipe
from attnserve_export.training.captions import trainer as trainer_module
from attnserve_export.training.captions.data import hold_back, read_photos, words
from attnserve_export.training.captions.features import view_of
from attnserve_export.training.captions.search import caption_tokens, greedy_tokens
from attnserve_export.training.captions.trainer import CaptionTrainer, bleu
from attnserve_export.training.data import END_ID
from tests.photos import PHOTOS
from tests.torch_threads import one_thread  # noqa: F401 - a fixture

CAPTIONS = {
    "astronaut": "A woman in an orange suit smiles before a flag .",
    "chelsea": "A brown cat looks into the camera .",
    "dog": "A german shepherd stands on dry grass .",
    "coffee": "A cup of coffee stands on a wooden table .",
    "rocket": "A rocket rises into the sky with fire and smoke .",
}
RECIPE = """
task = "caption"
model_id = "small"
architecture = "show-attend-tell"
seed = 3
[data]
set = "flickr8k"
language = "en"
max_words = 20
held_back = 2
views = 2
[words]
vocab_size = 30
[model]
d_embedding = 16
d_hidden = 24
d_alignment = 16
dropout = 0.1
attention = "ATTENTION"
[optimizer]
peak_learning_rate = 0.01
warmup_updates = 3
weight_decay = 0.0
label_smoothing = 0.1
clip_norm = 1.0
[schedule]
epochs = 3
batch_captions = 8
checkpoint_seconds = 0.0
beam_size = 2
[attention]
doubly_stochastic = 0.02
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in the layout of Flickr8k: each of the project's own, mirrored, turned and blurred."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "flickr8k"
    folder.mkdir()
    captions: dict[str, dict[str, list[str]]] = {"train": {}, "dev": {}}
    for number, archive in enumerate(("train-0", "train-1", "dev")):
        with tarfile.open(folder / f"{archive}.tar", "w") as tar:
            for path in PHOTOS:
                photo = Image.open(path).convert("RGB").resize((224, 224)).filter(ImageFilter.GaussianBlur(number))
                file, name = io.BytesIO(), f"{path.stem}-{number}.jpg"
                photo.save(file, "JPEG", quality=70)
                member = tarfile.TarInfo(name)
                member.size = len(file.getvalue())
                tar.addfile(member, io.BytesIO(file.getvalue()))
                captions[archive.partition("-")[0]][name] = [CAPTIONS[path.stem], CAPTIONS[path.stem].replace("A ", "The ")]
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    return root


def recipe(tmp_path: Path, attention: str = "soft") -> CaptionRecipe:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.replace("ATTENTION", attention), encoding="utf-8")
    found = load_recipe(str(path))
    assert isinstance(found, CaptionRecipe)
    return found


def test_words() -> None:
    assert words("A Dog 's ball , in the T-shirt ( 2 ) .") == ["a", "dog's", "ball", "in", "the", "t-shirt", "2"]
    assert words(" -- ' ") == []
    for caption in (*CAPTIONS.values(), "The child 's merry-go-round isn't 5.5 m"):
        assert " ".join(words(caption)) == caption_words(caption), "what is trained on is what is scored"


def test_photos_are_held_back_by_the_seed(data: Path) -> None:
    photos = read_photos(data, "train")
    assert len(photos) == 2 * len(PHOTOS)
    kept, held = hold_back(photos, 2, 1)
    assert sorted([*kept, *held]) == list(range(len(photos)))
    assert (kept, held) == hold_back(photos, 2, 1) != hold_back(photos, 2, 2)


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ATTNSERVE_DATA"):
        read_photos(tmp_path, "train")


def test_views() -> None:
    photo = Image.open(PHOTOS[0]).convert("RGB")
    plain, mirrored = (np.asarray(view_of(photo, view, "1/0")).astype(int) for view in (0, 1))
    assert np.array_equal(plain[:, ::-1], mirrored)
    others = [np.asarray(view_of(photo, view, "1/0")) for view in range(2, 8)]
    assert all(each.shape == (224, 224, 3) for each in others)
    assert len({each.tobytes() for each in others}) == 6
    assert np.array_equal(others[0], np.asarray(view_of(photo, 2, "1/0")))
    assert not np.array_equal(others[0], np.asarray(view_of(photo, 2, "1/1")))


def test_a_killed_run_goes_on_as_if_it_was_not(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CaptionTrainer(recipe(tmp_path), data, tmp_path / "whole")
    summary = whole.run()
    assert (summary["epochs"], summary["beam_size"], len(summary["log"])) == (3, 2, 3)
    assert summary["held_back_bleu_4_by_epoch"][str(summary["kept_epoch"])] == summary["held_back_bleu_4"]
    assert summary["log"][-1]["train_nll"] < summary["log"][0]["train_nll"]

    class Killed(BaseException):
        """Raised to end a run as a signal would."""

    saved = 0

    def dying(value: object, path: Path) -> None:
        nonlocal saved
        saved_before(value, path)
        saved += path.name == "checkpoint.pt"
        if saved == 3:
            raise Killed

    saved_before = trainer_module.save_atomically
    monkeypatch.setattr(trainer_module, "save_atomically", dying)
    with pytest.raises(Killed):
        CaptionTrainer(recipe(tmp_path), data, tmp_path / "killed").run()
    monkeypatch.setattr(trainer_module, "save_atomically", saved_before)
    again = CaptionTrainer(recipe(tmp_path), data, tmp_path / "killed")
    again.run()
    best = [torch.load(tmp_path / name / "best.pt", weights_only=True) for name in ("whole", "killed")]
    for name, value in best[0].items():
        assert torch.equal(value, best[1][name]), name
    features = whole.views[0][:2]
    found = caption_tokens(whole.model, torch.from_numpy(features.astype("float32")), 2)
    assert len(found) == 2
    assert all(END_ID not in tokens for tokens in found)


def test_hard_attention_is_trained_by_its_own_rule(data: Path, tmp_path: Path) -> None:
    trainer = CaptionTrainer(recipe(tmp_path, "hard"), data, tmp_path / "hard")
    trainer.run()
    drawn = [trainer.loss_of(trainer.batches_of(0)[0]) for trainer.update in range(1, 9)]
    assert len({round(nll, 3) for _, nll, _ in drawn}) > 1, "some batches look at drawn places, others at the mean"
    assert trainer.baseline < 0, "a mean log-likelihood"


def test_a_beam_of_one_is_greedy(data: Path, tmp_path: Path) -> None:
    trainer = CaptionTrainer(recipe(tmp_path), data, tmp_path / "run")
    trainer.run(2)
    trainer.model.eval()
    features = torch.from_numpy(trainer.views[0][:].astype("float32"))
    assert caption_tokens(trainer.model, features, 1) == greedy_tokens(trainer.model, features)


def test_bleu_is_against_all_captions(data: Path) -> None:
    photos = read_photos(data, "train")
    assert bleu([photo.captions[-1] for photo in photos], photos) == pytest.approx(100)
    assert bleu([photos[0].captions[0]] * len(photos), photos) < 60


def test_a_wrong_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(RECIPE.replace("doubly_stochastic", "doubly"), encoding="utf-8")
    with pytest.raises(RecipeError, match="doubly"):
        load_recipe(str(path))
