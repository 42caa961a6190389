"""A saved head is loaded by itself where it says how its backbone is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import HeadError


@pytest.fixture
def saved(image_folder: Path, tmp_path: Path) -> tuple[featcache.TrainedHead, Path]:
    """A head that a project saved, as the command line does."""
    settings = featcache.Settings("bundled:resnet-mini", f"folder:{image_folder}", store=str(tmp_path / "store"))
    project = featcache.Project(settings)
    project.extract("layer4")
    trained = featcache.train_head(project.split("layer4"), project.features("layer4"), head="linear")
    return trained, project.save_head(trained, "mine")


@pytest.mark.slow
@pytest.mark.parametrize("moved", ["the data is gone", "the head is elsewhere", "the store is elsewhere"])
def test_a_head_that_names_its_backbone_loads_alone(saved, image_folder: Path, tmp_path: Path, moved: str) -> None:
    trained, folder = saved
    if moved == "the data is gone":
        shutil.rmtree(image_folder)
    elif moved == "the head is elsewhere":
        folder = folder.rename(tmp_path / "mine")
    else:
        folder = (tmp_path / "store").rename(tmp_path / "other") / "heads" / "mine"
    inputs = [np.random.default_rng(0).random((1, 32, 32), dtype=np.float32)] * 2
    found = featcache.predict(featcache.load_head(folder), inputs)
    assert np.array_equal(found.probabilities, featcache.predict(trained, inputs).probabilities)


@pytest.mark.slow
def test_a_head_whose_backbone_has_other_weights_now_does_not_load(saved, tmp_path: Path) -> None:
    _, folder = saved
    backbone = featcache.load_backbone("bundled:resnet-mini")
    state = backbone.model.state_dict()
    state["conv1.weight"] += 1
    torch.save(state, tmp_path / "other.pt")
    described = json.loads((folder / "head.json").read_text())
    described["origin"]["weights"] = str(tmp_path / "other.pt")
    (folder / "head.json").write_text(json.dumps(described))
    (folder / "seal.json").unlink()
    with pytest.raises(HeadError, match="belongs to another backbone: 1 weights"):
        featcache.load_head(folder)


@pytest.mark.parametrize("origin", [{}, {"backbone": "own"}])
def test_a_head_of_a_model_object_asks_for_the_model_in_one_line(made, features, tmp_path, origin) -> None:
    folder = featcache.train_head(made, features, head="linear").save(tmp_path / "head", origin)
    with pytest.raises(HeadError, match=r"pass the model, as load_head\(folder, featcache\.split") as refused:
        featcache.load_head(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"origin": None}, {"origin": [1]}, {"recipe": {}}, {"recipe": 3}])
def test_a_damaged_description_is_refused_before_any_backbone_is_loaded(made, features, tmp_path, wrong) -> None:
    origin = {"backbone": "nowhere:none", "data": "folder:x"}
    folder = featcache.train_head(made, features, head="linear").save(tmp_path / "head", origin)
    described = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**described, **wrong}))
    (folder / "seal.json").unlink()
    with pytest.raises(HeadError, match="is damaged"):
        featcache.load_head(folder)
