from __future__ import annotations

import pickle
import random
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featcache
from featcache import FeatureStore
from featcache.errors import DataError, NonFiniteError, SplitError, UnreadableSampleError, UsageError

from ..conftest import SmallNet, TensorPairs


def reference(net: nn.Module, inputs: torch.Tensor, cut: str, batch_size: int = 64) -> torch.Tensor:
    """The output of a module, by a hook on the whole network, in full batches as extract runs them."""
    found: list[torch.Tensor] = []
    hook = net.get_submodule(cut).register_forward_hook(lambda *args: found.append(args[2].clone()))
    with torch.no_grad():
        padding = inputs[-1:].expand(-len(inputs) % batch_size, *inputs.shape[1:])
        for part in torch.cat([inputs, padding]).split(batch_size):
            net(part)
    hook.remove()
    return torch.cat(found)[: len(inputs)]


def test_features_equal_a_forward_hook_bit_for_bit_in_the_order_of_the_dataset(net, pairs, tmp_path) -> None:
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", batch_size=16)
    values, targets = features.numpy()
    assert np.array_equal(values, reference(net, pairs.inputs, "block", 16).numpy())
    assert np.array_equal(targets, pairs.targets_of.numpy())
    assert len(features) == 50
    one, target = features[7]
    assert torch.equal(one, torch.from_numpy(values[7]))
    assert target == pairs.targets_of[7]


def test_a_second_extract_computes_nothing_and_the_report_says_so(net, pairs, tmp_path) -> None:
    first = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block").report
    assert (first.samples, first.computed, first.reused) == (50, 50, 0)
    assert first.size_bytes == 50 * 8 * 6 * 6 * 4
    calls = []
    net.stem.register_forward_pre_hook(lambda *_: calls.append(1)).remove()
    second = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block").report
    assert (second.computed, second.reused, second.size_bytes) == (0, 50, 0)
    assert second.recipe == first.recipe


def test_only_new_samples_are_computed_and_old_rows_do_not_depend_on_which_were_missing(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    some = TensorPairs(pairs.inputs[10:23], pairs.targets_of[10:23])
    assert featcache.extract(net, some, store, cut="block", batch_size=16).report.computed == 13
    features = featcache.extract(net, pairs, store, cut="block", batch_size=16)
    assert (features.report.computed, features.report.reused) == (37, 13)
    assert np.array_equal(features.numpy()[0], reference(net, pairs.inputs, "block", 16).numpy())


def test_equal_samples_share_a_row_and_keep_their_own_targets(net, pairs, tmp_path) -> None:
    doubled = TensorPairs(pairs.inputs[[0, 1, 0]], torch.tensor([3, 1, 2]))
    features = featcache.extract(net, doubled, str(tmp_path / "s"), cut="block")
    assert features.report.computed == 3
    assert FeatureStore(str(tmp_path / "s")).sets()[0].rows == 2
    values, targets = features.numpy()
    assert np.array_equal(values[0], values[2])
    assert targets.tolist() == [3, 1, 2]


def test_shards_are_bounded_and_their_number_does_not_change_what_is_read(net, pairs, tmp_path) -> None:
    one = featcache.extract(net, pairs, str(tmp_path / "one"), cut="block", batch_size=8)
    many = featcache.extract(net, pairs, str(tmp_path / "many"), cut="block", batch_size=8, shard_bytes=8 * 8 * 36 * 4)
    assert FeatureStore(str(tmp_path / "one")).sets()[0].shards == 1
    assert FeatureStore(str(tmp_path / "many")).sets()[0].shards == 7
    order = np.random.default_rng(0).permutation(50)
    assert torch.equal(one.batch(order)[0], many.batch(order)[0])
    assert len(list(many.loader(16))) == 4


def test_float16_is_another_set_of_half_the_bytes_read_back_as_float32(net, pairs, tmp_path) -> None:
    exact = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    half = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", dtype="float16")
    assert half.recipe.fingerprint != exact.recipe.fingerprint
    assert half.report.size_bytes * 2 == exact.report.size_bytes
    values = half.numpy()[0]
    assert values.dtype == np.float32
    assert np.array_equal(values, exact.numpy()[0].astype(np.float16).astype(np.float32))


def test_features_pickle_and_reopen_in_a_worker_process(net, pairs, tmp_path) -> None:
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    again = pickle.loads(pickle.dumps(features))
    assert torch.equal(again.batch(np.arange(50))[0], features.batch(np.arange(50))[0])
    loader = torch.utils.data.DataLoader(features, batch_size=10, num_workers=1)
    assert torch.equal(torch.cat([batch for batch, _ in loader]), features.batch(np.arange(50))[0])


def test_a_sample_whose_features_are_nan_is_named_and_good_rows_are_kept(net, pairs, tmp_path) -> None:
    broken = TensorPairs(pairs.inputs.clone(), pairs.targets_of)
    broken.inputs[33] = float("nan")
    broken.names = [f"photo-{number}" for number in range(50)]
    with pytest.raises(NonFiniteError, match="photo-33"):
        featcache.extract(net, broken, str(tmp_path / "s"), cut="block", batch_size=8)
    assert FeatureStore(str(tmp_path / "s")).sets()[0].rows >= 32
    features = featcache.extract(net, broken, str(tmp_path / "s"), cut="block", batch_size=8, on_error="skip")
    assert [bad.name for bad in features.report.skipped_samples] == ["photo-33"]
    assert len(features) == 49


def test_float16_overflow_is_refused_with_the_reason(net, pairs, tmp_path) -> None:
    net.block.register_module("scale", Scale(1e9))
    with pytest.raises(NonFiniteError, match="65504"):
        featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", dtype="float16")


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class OutOfMemoryAbove(nn.Module):
    """Fails as a full GPU does for batches above a size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.armed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.armed and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return x + 1


def test_the_batch_is_halved_when_memory_runs_out_with_a_word_about_it(pairs, tmp_path) -> None:
    gate = OutOfMemoryAbove(5)
    model = nn.Sequential(gate, nn.Flatten(), nn.Linear(3 * 144, 4)).eval()
    split = featcache.split(model, "0", (pairs.inputs[:2],))
    split.check(pairs.inputs[:2])
    job_check = split.check
    split.check = lambda *inputs: job_check(*[value[:2] for value in inputs])
    split.model.get_submodule("0").armed = True
    features = featcache.extract(split, pairs, str(tmp_path / "s"), batch_size=16)
    assert any("computing 4 samples at a time" in note for note in features.report.notes)
    assert torch.equal(features.batch(np.arange(50))[0], pairs.inputs + 1)


def test_random_transforms_and_datasets_are_refused(net, pairs, tmp_path) -> None:
    from torchvision.transforms import v2

    with pytest.raises(DataError, match="random"):
        featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", transform=v2.RandomErasing(p=0.05))

    class Noisy(TensorPairs):
        def __getitem__(self, index: int):
            return self.inputs[index] + random.random(), 0

    with pytest.raises(DataError, match="random"):
        featcache.extract(net, Noisy(pairs.inputs, pairs.targets_of), str(tmp_path / "s"), cut="block")
    assert not (tmp_path / "s").exists()


def test_extract_leaves_the_random_state_the_modes_and_the_weights_alone(net, pairs, tmp_path) -> None:
    net.train()
    net.stem.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    featcache.extract(net, pairs, str(tmp_path / "s"), cut="block")
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())


def test_two_threads_extract_into_one_store(net, pairs, tmp_path) -> None:
    store, failures = str(tmp_path / "s"), []

    def work(cut: str) -> None:
        try:
            featcache.extract(SmallNet().eval() if cut == "stem" else net, pairs, store, cut=cut)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(cut,)) for cut in ("stem", "block", "tail")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {info.rows for info in FeatureStore(store).sets()} == {50}


def test_images_of_different_sizes_without_a_transform_are_refused_with_what_to_do(net, tmp_path) -> None:
    ragged = [(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 9), 1)]
    with pytest.raises(DataError, match="--transform"):
        featcache.extract(net, ragged, str(tmp_path / "s"), cut="block")


def test_wrong_options_are_named(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    for options, words in (
        ({"cut": None}, "where to cut"),
        ({"batch_size": 0}, "batch_size"),
        ({"dtype": "float3"}, "float32"),
        ({"on_error": "ignore"}, "on_error"),
        ({"workers": -1}, "workers"),
        ({"engine": "locl"}, "local"),
        ({"device": "cuda:99"}, "device"),
        ({"name": "../x"}, "name"),
    ):
        with pytest.raises(UsageError, match=words):
            featcache.extract(net, pairs, store, **{"cut": "block", **options})
    with pytest.raises(DataError, match="empty"):
        featcache.extract(net, TensorPairs(pairs.inputs[:0], pairs.targets_of[:0]), store, cut="block")
    with pytest.raises(DataError, match="not \\(input, target\\)"):
        featcache.extract(net, pairs.inputs, store, cut="block")


def test_a_folder_extracts_with_worker_processes_as_without(net, image_folder, tmp_path) -> None:
    data = f"folder:{image_folder}"
    here = featcache.extract(net, data, str(tmp_path / "a"), cut="block", transform=to_tensor, workers=0)
    there = featcache.extract(
        net, data, str(tmp_path / "b"), cut="block", transform=to_tensor, workers=2, batch_size=64
    )
    assert np.array_equal(here.numpy()[0], there.numpy()[0])
    assert here.classes == ["ant", "bee", "cat"]
    assert here.names[0] == "ant/0.png"


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.mark.slow
def test_an_unreadable_image_is_named_or_skipped(net, image_folder, tmp_path) -> None:
    (image_folder / "bee" / "2.png").write_bytes(b"not an image")
    data, store = f"folder:{image_folder}", str(tmp_path / "s")
    with pytest.raises(UnreadableSampleError, match=r"bee/2\.png"):
        featcache.extract(net, data, store, cut="block", transform=to_tensor, batch_size=4)
    skipped = featcache.extract(net, data, store, cut="block", transform=to_tensor, batch_size=4, on_error="skip")
    assert len(skipped) == 17
    assert [bad.name for bad in skipped.report.skipped_samples] == ["bee/2.png"]
    again = featcache.extract(net, data, store, cut="block", transform=to_tensor, batch_size=4, on_error="skip")
    assert (again.report.computed, again.report.skipped) == (0, 1)
    assert FeatureStore(store).status(net, data, cut="block", transform=to_tensor).fresh
    Image.new("RGB", (20, 20)).save(image_folder / "bee" / "2.png")
    mended = featcache.extract(net, data, store, cut="block", transform=to_tensor)
    assert (mended.report.computed, mended.report.skipped) == (1, 0)


def test_a_model_that_differs_between_two_passes_is_refused_and_nothing_is_stored(pairs, tmp_path) -> None:
    class Restless(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.rand_like(x))

    with pytest.raises(SplitError):
        featcache.extract(Restless().eval(), pairs, str(tmp_path / "s"), cut="block")
    assert not (tmp_path / "s").exists()


def test_an_item_that_cannot_be_fetched_is_named_or_skipped_and_listed(net, pairs, tmp_path) -> None:
    class Torn(TensorPairs):
        def __getitem__(self, index: int):
            if index == 7:
                raise OSError("disk error")
            return super().__getitem__(index)

    torn, store = Torn(pairs.inputs, pairs.targets_of), str(tmp_path / "s")
    with pytest.raises(DataError, match="item 7"):
        featcache.extract(net, torn, store, cut="block")
    for computed, reused in ((49, 0), (0, 49)):
        features = featcache.extract(net, torn, store, cut="block", on_error="skip")
        report = features.report
        assert len(features) == 49
        assert (report.samples, report.computed, report.reused, report.skipped) == (50, computed, reused, 1)
        assert [(bad.name, bad.reason) for bad in report.skipped_samples] == [("item 7", "disk error")]
