"""A wrapper around a network changes nothing: it is taken off, and its cuts and features are those of the plain network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import featcache
from featcache.errors import SplitError, UnknownCutError

from ..conftest import SmallNet, TensorPairs

WRAPPERS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "compile": ("_orig_mod.", torch.compile),
    "DataParallel": ("module.", DataParallel),
    "DistributedDataParallel": ("module.", DistributedDataParallel),
    "compiled DistributedDataParallel": (
        "_orig_mod.module.",
        lambda net: torch.compile(DistributedDataParallel(net)),
    ),
}


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_has_the_cuts_and_the_names_of_the_plain_one(
    net: SmallNet, wrapper: str, process_group: None
) -> None:
    x, (prefix, wrap) = torch.randn(4, 3, 12, 12), WRAPPERS[wrapper]
    plain, wrapped = featcache.split(net, "block", (x,)), wrap(net)
    assert featcache.cuts(wrapped, (x,)) == featcache.cuts(net, (x,))
    for cut in ("block", f"{prefix}block"):
        made = featcache.split(wrapped, cut, (x,))
        assert (made.cut, made.structure, made.weights) == (plain.cut, plain.structure, plain.weights)
        assert made.model is net
        assert torch.equal(made.prefix(x), plain.prefix(x))
    with pytest.raises(UnknownCutError, match=r"no module 'module\.blok'"):
        featcache.split(wrapped, "module.blok", (x,))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_head_of_a_wrapped_network_is_that_of_the_plain_one(
    net: SmallNet, pairs: TensorPairs, wrapper: str, process_group: None, tmp_path: Path
) -> None:
    prefix, wrap = WRAPPERS[wrapper]
    expected, _ = _trained(net, "block", pairs, tmp_path / "plain")
    head, features = _trained(wrap(net), f"{prefix}block", pairs, tmp_path / "wrapped")
    again = featcache.extract(net, pairs, str(tmp_path / "wrapped"), cut="block")
    assert again.report.reused == len(pairs)
    assert again.recipe == features.recipe
    for name, value in expected.model.state_dict().items():
        assert torch.equal(head.model.state_dict()[name], value), name
    merged = featcache.merge(head.save(tmp_path / "head"), wrap(net))
    assert torch.equal(merged(pairs.inputs), head.model(pairs.inputs))


def _trained(
    net: nn.Module, cut: str, pairs: TensorPairs, store: Path
) -> tuple[featcache.TrainedHead, featcache.Features]:
    features = featcache.extract(net, pairs, str(store), cut=cut)
    split = featcache.split(net, cut, (pairs.inputs[:2],))
    return featcache.train_head(split, features, epochs=1, batch_size=16, device="cpu"), features


def test_advice_takes_the_names_of_a_wrapped_network_too(net: SmallNet, pairs: TensorPairs, tmp_path: Path) -> None:
    found = featcache.probe(DataParallel(net), pairs, str(tmp_path), cuts=["module.stem", "block"])
    assert [row.cut for row in found.rows] == ["stem", "block"]


def test_a_wrapper_whose_hooks_change_what_goes_in_stays(net: SmallNet) -> None:
    x, wrapped = torch.randn(4, 3, 12, 12), DataParallel(net)
    wrapped.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    made = featcache.split(wrapped, "module.block", (x,))
    assert torch.equal(made.prefix(x), featcache.split(net, "block", (x,)).prefix(x * 2))
    assert torch.equal(made.suffix.eval()(made.prefix(x)), wrapped(x))


def test_a_part_that_is_wrapped_is_run_without_its_wrapper(net: SmallNet) -> None:
    x, expected = torch.randn(4, 3, 12, 12), net(torch.ones(4, 3, 12, 12))
    net.stem, net.tail = DataParallel(net.stem), torch.compile(net.tail)
    made = featcache.split(net, "stem", (x,))
    assert torch.equal(made.suffix.eval()(made.prefix(torch.ones(4, 3, 12, 12))), expected)


def test_a_part_that_works_together_with_other_processes_is_refused(net: SmallNet, process_group: None) -> None:
    net.tail = DistributedDataParallel(net.tail)
    with pytest.raises(SplitError, match=r"'tail' is DistributedDataParallel.*wrap split\.suffix"):
        featcache.split(net, "stem", (torch.randn(4, 3, 12, 12),))
