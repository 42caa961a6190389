"""What leaves the store: networks and features that other tools read, equal to what was trained and cached."""

from __future__ import annotations

import json
import sys

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import DataError, DataNotFoundError, HeadError, MissingDependencyError, UsageError
from featcache.heads.network import new_network

from ..conftest import SmallNet
from ..heads.test_heads_parity import SkipNet


@pytest.fixture
def trained(made, features) -> featcache.TrainedHead:
    return featcache.train_head(made, features, epochs=1)


def fresh(net: SmallNet, outputs: int) -> SmallNet:
    model = SmallNet(outputs).eval()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("fc")}
    model.load_state_dict(state, strict=False)
    return model


@pytest.mark.parametrize("name", ["whole.safetensors", "whole.pt"])
def test_a_state_dict_loads_into_the_original_model_with_strict(net, trained, pairs, tmp_path, name: str) -> None:
    report = featcache.export_head(trained, tmp_path / name, model=net)
    if name.endswith(".pt"):
        state = torch.load(tmp_path / name, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(tmp_path / name)
    model = SmallNet().eval()
    model.load_state_dict(state, strict=True)
    assert torch.equal(model(pairs.inputs), trained.model(pairs.inputs))
    assert report.notes == ["loads into SmallNet as it is, with strict=True"]
    assert report.size_bytes == (tmp_path / name).stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == [name]


def test_another_number_of_classes_is_said_and_merge_makes_room_for_them(net, pairs, tmp_path) -> None:
    model = fresh(net, 9)
    split = featcache.split(model, "block", (pairs.inputs[:2],))
    features = featcache.extract(split, pairs, str(tmp_path / "s"))
    trained = featcache.train_head(split, features, epochs=1)
    report = featcache.export_head(trained, tmp_path / "whole.safetensors", model=model)
    assert report.notes == ["loads into SmallNet with strict=True once its layer 'fc' has 4 outputs"]
    expected = trained.model(pairs.inputs)
    torch.manual_seed(3)
    following = torch.rand(1)
    torch.manual_seed(3)
    for head in (trained, trained.save(tmp_path / "head")):
        for onto in (model, split):
            merged = featcache.merge(head, onto)
            assert merged is not trained.model
            assert torch.equal(merged(pairs.inputs), expected)
    assert torch.equal(torch.rand(1), following)
    assert model.fc.out_features == 9
    assert featcache.merge(trained, model).fc.out_features == 4


def test_merge_refuses_another_backbone_than_the_heads_own(net, made, trained, features, pairs, tmp_path) -> None:
    folder = trained.save(tmp_path / "head")
    other = SmallNet().eval()
    strange = featcache.split(other, "block", (pairs.inputs[:2],))
    for head in (trained, folder):
        for onto in (other, strange, nn.Linear(2, 2)):
            with pytest.raises(HeadError, match="belongs to another backbone") as caught:
                featcache.merge(head, onto)
            assert "\n" not in str(caught.value)
    with torch.no_grad():
        net.stem[1].running_mean[0] += 1e-3
    with pytest.raises(HeadError, match=r"1 weights up to 'block' differ \(stem.1.running_mean\)"):
        featcache.merge(folder, net)
    linear = featcache.train_head(
        featcache.split(net, "tail", (pairs.inputs[:2],)), cached(net, pairs, tmp_path), head="linear"
    )
    with pytest.raises(UsageError, match=r"featcache.split\(model, 'tail'"):
        featcache.merge(linear, net)


@pytest.mark.slow
def test_merge_refuses_a_folder_that_lacks_tensors_or_holds_others(net, trained, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = trained.save(tmp_path / "head")
    whole = load_file(folder / "head.safetensors")
    for spoilt, words in (
        ({name: value for name, value in whole.items() if name != "fc.bias"}, "damaged"),
        ({**{name: value for name, value in whole.items() if name != "fc.bias"}, "x": torch.zeros(1)}, "does not fit"),
        ({**whole, "fc.weight": torch.zeros(4, 9)}, "does not fit"),
    ):
        save_file(spoilt, folder / "head.safetensors")
        with pytest.raises(HeadError, match="is not what was saved"):
            featcache.merge(folder, net)
        (folder / "seal.json").unlink(missing_ok=True)  # as of a head from before there were seals
        with pytest.raises(HeadError, match=words) as caught:
            featcache.merge(folder, net)
        assert "\n" not in str(caught.value)
        folder = trained.save(tmp_path / "again")
    (folder / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(HeadError, match="is not what was saved"):
        featcache.merge(folder, net)


def test_the_state_of_a_linear_head_says_what_its_names_begin_with(made, features, tmp_path) -> None:
    trained = featcache.train_head(made, features, head="linear", epochs=1)
    report = featcache.export_head(trained, tmp_path / "whole.safetensors")
    assert "backbone, head" in report.notes[0]
    assert report.size_bytes > 0


def cached(net, pairs, tmp_path, cut: str = "tail") -> featcache.Features:
    return featcache.extract(net, pairs, str(tmp_path / "cached"), cut=cut)


KINDS = ["suffix", "linear", "sklearn:LogisticRegression"]


@pytest.mark.slow
@pytest.mark.parametrize("head", KINDS)
def test_a_torch_export_program_gives_the_networks_scores_for_any_batch(made, features, pairs, tmp_path, head) -> None:
    trained = featcache.train_head(made, features, head=head, epochs=1)
    report = featcache.export_head(trained, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for rows in (1, 3, 50):
        assert torch.allclose(program(pairs.inputs[:rows]), trained.model(pairs.inputs[:rows]), atol=1e-5)
    assert report.difference < 1e-5
    assert report.notes == []


@pytest.mark.slow
@pytest.mark.parametrize("head", KINDS)
def test_onnx_gives_the_networks_scores_for_any_batch(made, features, pairs, tmp_path, head) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    trained = featcache.train_head(made, features, head=head, epochs=1)
    report = featcache.export_head(trained, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    for rows in (1, 3, 50):
        (found,) = session.run(None, {session.get_inputs()[0].name: pairs.inputs[:rows].numpy()})
        assert torch.allclose(torch.from_numpy(found), trained.model(pairs.inputs[:rows]), atol=1e-4)
    assert report.difference < 1e-4
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["net.onnx"]


@pytest.mark.parametrize("pool", ["auto", "flatten"])
def test_a_linear_head_on_vectors_is_exported_for_any_batch(tmp_path, pool: str) -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    split = featcache.split(network, "1", (torch.zeros(2, 6),))
    features = featcache.extract(split, [(torch.randn(6), number % 3) for number in range(20)], str(tmp_path / "store"))
    head = featcache.train_head(split, features, head="linear", pool=pool, device="cpu")
    report = featcache.export_head(head, tmp_path / "head.pt2")
    assert not [note for note in report.notes if "only" in note]
    inputs = torch.randn(7, 6)
    found = torch.export.load(tmp_path / "head.pt2").module()(inputs)
    assert torch.allclose(found, head.model(inputs), atol=1e-6)


def test_a_program_that_differs_from_the_network_is_not_kept(trained, tmp_path, monkeypatch) -> None:
    from featcache.export import network

    (tmp_path / "net.pt2").write_bytes(b"the one before")
    monkeypatch.setattr(network, "TOLERANCE", -1.0)
    with pytest.raises(HeadError, match="was not kept"):
        featcache.export_head(trained, tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").read_bytes() == b"the one before"
    assert len([path for path in tmp_path.iterdir() if path.name != "store"]) == 1


def test_what_cannot_be_exported_is_refused_in_one_line(made, features, trained, tmp_path, monkeypatch) -> None:
    forest = featcache.train_head(made, features, head="sklearn:RandomForestClassifier", parameters={"n_estimators": 2})
    for error, words, head, path, kind in (
        (UsageError, "RandomForestClassifier is not a network", forest, "f.pt", None),
        (UsageError, "end it in .safetensors", trained, "f.bin", None),
        (UsageError, "'state_dict'", trained, "f.bin", "state-dict"),
        (UsageError, "end it in .safetensors", trained, "f.npy", None),
        (DataNotFoundError, "no such folder", trained, "none/f.pt", None),
    ):
        with pytest.raises(error, match=words) as caught:
            featcache.export_head(head, tmp_path / path, kind)
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        featcache.export_head(trained, tmp_path / "folder.pt")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"featcache\[onnx\]"):
        featcache.export_head(trained, tmp_path / "f.onnx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"featcache\[parquet\]"):
        featcache.export_features(features, tmp_path / "f.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"store", "folder.pt"}


def test_features_are_exported_as_arrays(features, tmp_path) -> None:
    values, targets = features.numpy()
    report = featcache.export_features(features, tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), values)
    assert (report.rows, report.format) == (50, "npy")
    featcache.export_features(features, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert np.array_equal(found["features"], values)
        assert np.array_equal(found["targets"], targets)
        assert found["names"].tolist() == features.names


@pytest.mark.parametrize("block_bytes", [1 << 20, 3000])
def test_features_are_exported_as_plain_hdf5_and_parquet(features, tmp_path, monkeypatch, block_bytes: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from featcache.export import features as module

    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    values, targets = features.numpy()
    featcache.export_features(features, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        (dataset,) = file["features"].values()
        assert np.array_equal(dataset[:], values)
        assert np.array_equal(file["targets"][:], targets)
        assert [name.decode() for name in file["names"][:]] == features.names
        assert file.attrs["cut"] == b"block"
    featcache.export_features(features, tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    described = json.loads(table.schema.metadata[b"featcache"])
    found = np.stack(table.column("block").to_numpy()).reshape(-1, *described["shapes"]["block"])
    assert np.array_equal(found, values)
    assert table.column("target").to_pylist() == targets.tolist()
    assert table.column("name").to_pylist() == features.names


def test_several_tensors_and_vector_targets_are_exported_too(pairs, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    class Vectors(type(pairs)):
        def __getitem__(self, index: int):
            return self.inputs[index], np.array([index, 0.5])

    data = Vectors(pairs.inputs, pairs.targets_of)
    split = featcache.split(SkipNet().eval(), "first", (data.inputs[:2],))
    features = featcache.extract(split, data, str(tmp_path / "s"))
    values, targets = features.numpy()
    with pytest.raises(UsageError, match=r"use \.npz"):
        featcache.export_features(features, tmp_path / "x.npy")
    featcache.export_features(features, tmp_path / "x.npz")
    featcache.export_features(features, tmp_path / "x.h5")
    featcache.export_features(features, tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    with np.load(tmp_path / "x.npz") as arrays, h5py.File(tmp_path / "x.h5") as file:
        for name, expected in values.items():
            assert np.array_equal(arrays[name], expected)
            assert np.array_equal(file["features"][name][:], expected)
            assert np.array_equal(np.stack(table.column(name).to_numpy()), expected.reshape(50, -1))
        assert np.array_equal(file["targets"][:], targets)
    assert np.array_equal(np.stack(table.column("target").to_numpy()), targets)


@pytest.mark.slow
def test_networks_and_features_are_exported_from_the_command_line(featcache_command, image_folder) -> None:
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:images"\n'
    )
    featcache_command("extract", "--cut", "layer4")
    featcache_command("train-head", "--epochs", "1", "--name", "mine")
    done = featcache_command("export", "--to", "whole.safetensors")
    assert "once its layer 'fc' has 3 outputs" in done.stderr
    report = json.loads(featcache_command("export", "mine", "--to", "whole.pt2", "--json").stdout)
    assert report["difference"] < 1e-4
    assert "18 samples" in featcache_command("export", "--to", "x.npy").stderr
    assert np.load(featcache_command.folder / "x.npy").shape[0] == 18
    for words, arguments, code in (
        ("a head is not a feature", ("mine", "--to", "x.h5"), 2),
        ("end it in", ("--to", "x.dat"), 2),
        ("holds no head 'yours'", ("yours", "--to", "x.pt"), 2),
        ("featcache extract --cut layer3", ("--to", "x.h5", "--cut", "layer3"), 3),
        ("no such folder", ("--to", "none/x.npy"), 1),
    ):
        done = featcache_command("export", *arguments, expect=code)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_a_resnet_of_torchvision_merges_and_exports(tmp_path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18().eval()
    inputs = torch.randn(8, 3, 64, 64)
    data = torch.utils.data.TensorDataset(inputs, torch.arange(8) % 2)
    split = featcache.split(model, "layer3", (inputs[:2],))
    features = featcache.extract(split, data, str(tmp_path / "s"))
    trained = featcache.train_head(split, features, epochs=1, validation=0)
    merged = featcache.merge(trained.save(tmp_path / "head"), model)
    assert torch.equal(merged(inputs), trained.model(inputs))
    assert featcache.export_head(trained, tmp_path / "net.pt2").difference < 1e-5
    pytest.importorskip("onnxruntime")
    assert featcache.export_head(trained, tmp_path / "net.onnx").difference < 1e-4
    start = new_network(split, 2).model
    start.load_state_dict(merged.state_dict(), strict=True)


@pytest.mark.slow
def test_a_network_with_keyword_inputs_and_a_mapping_as_output_is_exported(tmp_path) -> None:
    """As a language model of Hugging Face."""
    onnxruntime = pytest.importorskip("onnxruntime")

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 8)
            self.body = nn.Linear(8, 8)
            self.classifier = nn.Linear(8, 5)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = self.body(self.embedding(input_ids)) * attention_mask.unsqueeze(-1)
            return {"hidden": hidden, "logits": self.classifier(hidden.mean(1))}

    class Texts(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int):
            tokens = torch.arange(index, index + 6) % 20
            return {"input_ids": tokens, "attention_mask": torch.ones(6)}, index % 2

    torch.manual_seed(0)
    data = Texts()
    inputs = torch.utils.data.default_collate([data[0][0], data[1][0]])
    split = featcache.split(Tokens().eval(), "embedding", inputs)
    features = featcache.extract(split, data, str(tmp_path / "s"))
    trained = featcache.train_head(split, features, epochs=2)
    report = featcache.export_head(trained, tmp_path / "net.onnx")
    assert "input_ids, attention_mask" in report.notes[0]
    expected = trained.model(**inputs)["logits"]
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    (found,) = session.run(None, {name: values.numpy() for name, values in inputs.items()})
    assert np.allclose(found, expected.detach().numpy(), atol=1e-5)
    featcache.export_head(trained, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    assert torch.allclose(program(*inputs.values()), expected, atol=1e-5)
    assert len(featcache.predict(trained, data).labels) == 24
