from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from featcache.backbones import backbone_identity, load_backbone
from featcache.backbones.bundled import card
from featcache.errors import DataNotFoundError, UnknownNameError, UsageError
from featcache.identity import digest, identity
from featcache.samples.transforms import load_transform
from featcache.testing.sources import BackboneSourceContract

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))

NETS = """
import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification
import beside

def net(): return nn.Sequential(nn.Conv2d(3, beside.WIDTH, 3), nn.Dropout(), nn.Flatten())
def with_preset(): return net(), ImageClassification(crop_size=64, resize_size=80)
def with_transform(): return net(), v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
def weighted(weights=None):
    made = net()
    made.given = weights
    return made
def wrong(): return 3
def broken(): return net.not_there
def resize(image_size=48): return v2.Compose([v2.Resize((image_size, image_size)), v2.PILToTensor()])
def fixed(): return v2.PILToTensor()
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def said(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


class TestBundled(BackboneSourceContract):
    spec = "bundled:resnet-mini"
    nonsense = "bundled:resnet-mimi"


class TestTorchvision(BackboneSourceContract):
    spec = "torchvision:resnet18"
    weights = "none"
    nonsense = "torchvision:resnet17"


class TestFunctionOfAFile(BackboneSourceContract):
    nonsense = "nets.py:nett"

    @pytest.fixture(autouse=True)
    def _file(self, nets: Path) -> None:
        self.spec = f"{nets}/nets.py:with_preset"


def test_the_bundled_network_is_small_named_like_a_resnet_and_says_how_good_it_is() -> None:
    model = load_backbone("bundled:resnet-mini").model
    names = [name for name, _ in model.named_children()]
    assert names == ["conv1", "bn1", "relu", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert card()["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert card()["accuracy"] > 0.97
    import featcache.backbones

    folder = Path(featcache.backbones.__file__).parent
    assert (folder / "resnet_mini.safetensors").stat().st_size < 2 << 20


def test_names_that_are_nearly_right_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match="'resnet18'"):
        load_backbone("torchvision:resnet_18")
    with pytest.raises(UnknownNameError, match="'torchvision'"):
        load_backbone("torchvison:resnet18")
    with pytest.raises(UnknownNameError, match="'IMAGENET1K_V1'"):
        load_backbone("torchvision:resnet18", "IMAGENET1K_V3")
    with pytest.raises(UsageError, match="not a backbone specification"):
        load_backbone("resnet18")


def test_image_size_keeps_the_ratio_of_resize_to_crop() -> None:
    backbone = load_backbone("torchvision:resnet18", "none")
    assert backbone.make_transform is not None
    own, small = (identity(backbone.make_transform(size))["state"] for size in (None, 112))
    assert (own["crop_size"], own["resize_size"]) == ([224], [256])
    assert (small["crop_size"], small["resize_size"]) == ([112], [128])
    assert digest(backbone.make_transform(224)) == digest(backbone.make_transform(None))
    video = load_backbone("torchvision:r3d_18", "none").make_transform
    assert video is not None
    assert identity(video(56))["state"]["resize_size"] == [64, 86]


def test_networks_for_other_tasks_load_without_fetching_weights() -> None:
    for name in ("fasterrcnn_mobilenet_v3_large_320_fpn", "lraspp_mobilenet_v3_large"):
        backbone = load_backbone(f"torchvision:{name}", "none")
        assert backbone.make_transform is not None
    with pytest.raises(UsageError, match="--image-size 64"):
        load_backbone("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "none").make_transform(64)  # type: ignore[misc]


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_come_from_files_of_tensors(tmp_path: Path, ending: str) -> None:
    base = load_backbone("torchvision:squeezenet1_1", "none").model
    state = {name: value + 1 for name, value in base.state_dict().items()}
    path = tmp_path / f"w.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save({"state_dict": state, "epoch": 3}, path)
    loaded = load_backbone("torchvision:squeezenet1_1", str(path))
    assert loaded.weights == str(path)
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pth")
    parallel = load_backbone("torchvision:squeezenet1_1", str(tmp_path / "parallel.pth")).model
    assert all(torch.equal(value, state[name]) for name, value in parallel.state_dict().items())


def test_a_file_gives_the_network_that_torchvision_makes_of_its_own_weights(tmp_path: Path) -> None:
    from torchvision.models import densenet121, googlenet

    saved = googlenet(weights=None, init_weights=False, aux_logits=True).state_dict()
    torch.save(saved, tmp_path / "googlenet.pth")
    model = load_backbone("torchvision:googlenet", str(tmp_path / "googlenet.pth")).model
    assert model.transform_input is True  # as torchvision sets it for pretrained weights
    assert model.aux1 is None
    assert torch.equal(model.fc.weight, saved["fc.weight"])
    state = densenet121(weights=None).state_dict()
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
        for name, value in state.items()
        if "num_batches" not in name
    }
    torch.save(old, tmp_path / "densenet.pth")
    model = load_backbone("torchvision:densenet121", str(tmp_path / "densenet.pth")).model
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items() if "batches" not in name)


class Code:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch taken-over",))


def test_what_is_no_state_dict_for_this_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = load_backbone("torchvision:squeezenet1_1", "none").model.state_dict()
    cases = {
        "missing classifier.1.weight": {name: value for name, value in state.items() if name != "classifier.1.weight"},
        "unexpected extra": {**state, "extra": torch.zeros(1)},
        r"shapes classifier.1.bias \[3\] for \[1000\]": {**state, "classifier.1.bias": torch.zeros(3)},
        "missing .* and 4[0-9] more": {"features.0.weight": state["features.0.weight"]},
        "no state_dict": {"a": [1, 2]},
        "could run code": {**state, "extra": Code()},
    }
    for words, content in cases.items():
        torch.save(content, "w.pt")
        with pytest.raises(UsageError, match=words) as error:
            load_backbone("torchvision:squeezenet1_1", "w.pt")
        assert "w.pt" in said(error)
    assert not Path("taken-over").exists()
    for name, content in (("w.pt", b"nothing"), ("w.safetensors", b"nothing"), ("w.pth", b"")):
        Path(name).write_bytes(content)
        with pytest.raises(UsageError, match="weights file") as error:
            load_backbone("torchvision:squeezenet1_1", name)
        said(error)
    with pytest.raises(DataNotFoundError, match="no weights file"):
        load_backbone("bundled:resnet-mini", "gone.pt")


@pytest.mark.slow
def test_without_a_network_the_error_says_how_to_go_on(tmp_path: Path) -> None:
    ask = "from featcache.backbones import load_backbone; load_backbone('torchvision:resnet18')"
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("featcache.errors.DataNotFoundError: the weights ResNet18_Weights.IMAGENET1K_V1")
    assert "give it as --weights FILE" in last


def test_the_identity_changes_with_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"1")
    base = backbone_identity("bundled:resnet-mini", str(path))
    assert base is not None
    assert set(base["versions"]) == {"torch", "torchvision"}
    path.write_bytes(b"22")
    assert backbone_identity("bundled:resnet-mini", str(path)) != base
    assert backbone_identity("torchvision:resnet18", "none") != backbone_identity("torchvision:resnet34", "none")
    assert backbone_identity("torch.nn:Identity") is None


def test_functions_of_files_make_backbones_with_or_without_a_transform(nets: Path) -> None:
    backbone = load_backbone("nets.py:net")
    assert backbone.make_transform is None
    assert not backbone.model[1].training
    own = load_backbone("nets.py:with_transform").make_transform
    assert own is not None
    assert own(None)(PHOTO).shape == (3, 90, 70)
    with pytest.raises(UsageError, match="--image-size 32"):
        own(32)
    assert str(nets) not in sys.path
    for spec, words in (
        ("nets.py:wrong", "returned int"),
        ("nets.py:broken", "AttributeError"),
        ("nets.py:ne", "'net'"),
        ("gone.py:net", r"no file gone\.py"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            load_backbone(spec)
        said(error)


def test_weights_go_to_a_function_that_takes_them_and_else_into_its_network(nets: Path) -> None:
    assert load_backbone("nets.py:weighted", "big").model.given == "big"
    with pytest.raises(UsageError, match="takes no weights"):
        load_backbone("nets.py:net", "big")
    state = {name: value + 1 for name, value in load_backbone("nets.py:net").model.state_dict().items()}
    save_file(state, nets / "w.safetensors")
    assert torch.equal(load_backbone("nets.py:net", "w.safetensors").model[0].bias, state["0.bias"])


def test_a_transform_is_the_backbones_own_or_a_functions(nets: Path) -> None:
    backbone = load_backbone("bundled:resnet-mini")
    for spec in (None, "default"):
        own = load_transform(spec, 40, backbone)
        assert own is not None
        assert own(PHOTO).shape == (1, 40, 40)
    for size, expected in ((None, 48), (20, 20)):
        made = load_transform("nets.py:resize", size, backbone)
        assert made is not None
        assert made(PHOTO).shape == (3, expected, expected)
    with pytest.raises(UsageError, match="takes no image_size"):
        load_transform("nets.py:fixed", 20, backbone)
    with pytest.raises(UsageError, match="not a transform"):
        load_transform("nets", None, backbone)
    with pytest.raises(UsageError, match="returned int"):
        load_transform("nets.py:wrong", None, backbone)
    assert load_transform(None, None, load_backbone("nets.py:net")) is None
    with pytest.raises(UsageError, match="give --transform"):
        load_transform(None, 32, load_backbone("nets.py:net"))


def test_the_bundled_transform_takes_grey_and_colour_alike() -> None:
    make = load_backbone("bundled:resnet-mini").make_transform
    assert make is not None
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8))
    assert torch.allclose(make(None)(grey), make(None)(grey.convert("RGB")), atol=0.02)
    assert isinstance(load_backbone("bundled:resnet-mini", "none").model, nn.Module)
