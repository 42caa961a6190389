"""Ways of computing: exact, fast and bf16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import UsageError
from featcache.extraction.numerics import PrefixRunner


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def test_each_way_of_computing_is_a_set_of_its_own_and_agrees_with_the_exact_one(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    made = {
        numerics: featcache.extract(net, pairs, store, cut="block", numerics=numerics)
        for numerics in ("exact", "fast", "bf16")
    }
    assert len({features.recipe.fingerprint for features in made.values()}) == 3
    assert [features.report.computed for features in made.values()] == [50, 50, 50]
    assert made["fast"].recipe.numerics == "fast"
    exact = made["exact"].numpy()[0]
    assert relative(made["fast"].numpy()[0], exact) < 1e-4
    assert 0 < relative(made["bf16"].numpy()[0], exact) < 0.05
    again = featcache.extract(net, pairs, store, cut="block", numerics="fast")
    assert again.report.computed == 0


def test_the_model_itself_is_left_as_it_is(net, pairs, tmp_path) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", numerics="fast")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.stem[0].weight.is_contiguous()


def test_fast_folds_batch_norm_and_gives_way_where_that_would_change_values(net, pairs) -> None:
    inputs = (pairs.inputs[:4],)
    for cut, folded in (
        ("block", True),
        ("block.0", False),
    ):  # the second caches what the BatchNorm would be folded into
        made = featcache.split(net, cut, (pairs.inputs[:2],))
        runner = PrefixRunner("fast")
        (found,) = runner.run(inputs, [made])
        (model,) = runner._models.values()
        assert isinstance(model.block[1], nn.Identity) is folded
        assert torch.allclose(found[cut], made.prefix(*inputs), rtol=1e-4, atol=1e-5)


def test_several_cuts_are_computed_fast_in_one_pass(net, pairs, tmp_path) -> None:
    exact = featcache.extract(net, pairs, str(tmp_path / "a"), cut=["stem", "block"])
    fast = featcache.extract(net, pairs, str(tmp_path / "a"), cut=["stem", "block"], numerics="fast", pool="auto")
    for cut in ("stem", "block"):
        assert relative(fast[cut].numpy()[0], exact[cut].numpy()[0].mean((2, 3))) < 1e-4


def test_nothing_is_derived_across_ways_of_computing(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="stem")
    assert featcache.extract(net, pairs, store, cut="block", numerics="fast").report.derived == 0
    featcache.extract(net, pairs, store, cut="stem", numerics="bf16")
    assert featcache.extract(net, pairs, store, cut="block", numerics="bf16").report.derived == 0
    pooled = featcache.extract(net, pairs, store, cut="block", numerics="bf16", pool="auto")
    assert pooled.report.derived == 50
    with pytest.raises(UsageError, match="numerics"):
        featcache.extract(net, pairs, store, cut="block", numerics="bf16", from_lossy=True)


def test_an_unknown_way_of_computing_is_refused(net, pairs, tmp_path) -> None:
    with pytest.raises(UsageError, match="exact, fast, bf16"):
        featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", numerics="fp8")
