"""The options of what is stored: one list, from which functions, settings and the command line take them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest

import featcache
from featcache.cli.main import cli, known_options
from featcache.codecs import Stored, StoredOptions
from featcache.errors import UsageError

NAMES = [each.name for each in fields(Stored)]


def test_the_keywords_for_type_checkers_are_the_options() -> None:
    assert get_type_hints(StoredOptions) == {name: get_type_hints(Stored)[name] for name in NAMES}


@pytest.mark.parametrize("function", [featcache.extract, featcache.missing_tasks, featcache.probe, featcache.sweep])
def test_a_function_shows_every_option_with_its_default(function) -> None:
    shown = inspect.signature(function).parameters
    assert {name: shown[name].default for name in NAMES} == Stored().options()


def test_settings_have_every_option_with_its_default() -> None:
    assert featcache.Settings("bundled:resnet-mini", "sklearn:digits").options() == Stored().options()


@pytest.mark.parametrize("command", ["extract", "train-head", "plan", "probe", "sweep", "status", "export"])
def test_a_command_takes_every_option(command: str) -> None:
    assert set(NAMES) <= set(known_options(cli.get_command(None, command)))


BAD = [
    ({"dtype": "float31"}, "float31"),
    ({"numerics": "quick"}, "unknown numerics 'quick'"),
    ({"pool": "largest"}, "pool must be one of"),
    ({"views": 0}, "views must be at least 1"),
    ({"views": 3}, "3 views need a random augmentation"),
    ({"seed": 1, "view_seed": 2}, "seed is the same as view_seed"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_a_wrong_option_is_refused_alike_wherever_it_is_given(made, pairs, tmp_path, options, said: str) -> None:
    store = featcache.FeatureStore(str(tmp_path / "store"))
    for asked in (featcache.extract, featcache.missing_tasks):
        with pytest.raises((UsageError, LookupError), match=said):
            asked(made, pairs, store, **options)
    for asked in (store.status, store.explain, store.recompute):
        with pytest.raises((UsageError, LookupError), match=said):
            asked(made, pairs, **options)
    assert not (tmp_path / "store").exists()


def test_a_keyword_that_nothing_takes_is_named_with_what_is_near(made, net, pairs, tmp_path) -> None:
    store = featcache.FeatureStore(str(tmp_path / "store"))
    for asked in (featcache.extract, featcache.missing_tasks):
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'dtpe'.* Did you mean 'dtype'"):
            asked(made, pairs, store, dtpe="float16")
    for advice in (featcache.plan, featcache.probe, featcache.sweep):
        with pytest.raises(TypeError, match="unexpected keyword argument 'dtpe'"):
            advice(net, pairs, store, dtpe="float16")
    for asked in (store.status, store.explain, store.recompute):
        with pytest.raises(TypeError, match="unexpected keyword argument 'dtpe'"):
            asked(made, pairs, dtpe="float16")


@pytest.mark.parametrize("advice", [featcache.plan, featcache.probe, featcache.sweep])
def test_advice_refuses_views_without_an_augmentation(net, pairs, tmp_path, advice) -> None:
    with pytest.raises(UsageError, match="3 views need a random augmentation"):
        advice(net, pairs, str(tmp_path / "s"), ["block"], views=3)


def test_probe_and_sweep_say_who_computes_as_extract_does(net, pairs, tmp_path) -> None:
    options = {"engine": "local", "workers": 0, "on_error": "skip", "codec": "zstd"}
    assert featcache.probe(net, pairs, str(tmp_path / "s"), ["block"], **options).rows
    assert featcache.sweep(net, pairs, str(tmp_path / "s"), ["block"], epochs=1, seeds=1, **options).rows


def test_an_augmentation_is_taken_by_name_wherever_extract_takes_it(made, pairs, tmp_path) -> None:
    store = featcache.FeatureStore(str(tmp_path / "store"))
    featcache.extract(made, pairs, store, augment="flip", views=2, seed=5)
    assert store.status(made, pairs, augment="flip", views=2, view_seed=5).state == "fresh"
    assert store.status(made, pairs, augment="flip", views=2, view_seed=6).state != "fresh"


def test_probe_scores_pooled_vectors_whether_pooling_is_left_out_or_none(net, pairs, tmp_path) -> None:
    found = [featcache.probe(net, pairs, str(tmp_path / "s"), ["block"], **given) for given in ({}, {"pool": None})]
    assert found[0].rows == found[1].rows
