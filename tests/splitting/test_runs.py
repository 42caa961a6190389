"""What a recording is: read by many, changed by none, and of the draws of other threads none is its own."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from featcache import Cut
from featcache.splitting import following, trial
from featcache.splitting.analysis import CutAnalysis
from featcache.splitting.crossings import Crossing
from featcache.splitting.examples import Examples
from featcache.splitting.layout import Layout
from featcache.splitting.record import record
from featcache.splitting.runs import Ref, Run, Runs
from featcache.splitting.sizes import Growth


@pytest.mark.parametrize(
    "kind", [Crossing, Cut, CutAnalysis, Examples, Growth, Layout, Ref, Runs, following.Step, trial.Step]
)
def test_what_several_cuts_share_cannot_be_changed(kind: type) -> None:
    made = object.__new__(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(kind)[0].name, None)


@pytest.mark.parametrize("draws", list(itertools.product((False, True), repeat=3)))
def test_a_call_draws_random_numbers_only_where_it_does_so_in_every_run(draws: tuple[bool, ...]) -> None:
    def run(draws: bool) -> Run:
        made = record(nn.Linear(2, 2), (torch.ones(2, 2),), {}, 2)
        made.calls[0].draws = draws
        return made

    assert Runs(*map(run, draws)).run.calls[0].draws == all(draws)
