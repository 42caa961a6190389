"""The engine ray, on a real local cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache

from ..conftest import TensorPairs
from ..extraction.test_slices import SlowPairs

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = paths
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def actors() -> list[int]:
    """Return the processes that run featcache's actors."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cmdline").read_bytes().startswith(b"ray::"):
                name = process.joinpath("cmdline").read_bytes()
                parent = int(process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
                if b"MapWorker" in name and is_ours(parent):
                    found.append(int(process.name))
        except OSError:
            continue
    return found


def is_ours(process: int) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


@pytest.mark.slow
def test_two_actors_one_of_them_killed_give_what_one_process_gives(cluster, net, pairs, tmp_path) -> None:
    inputs = pairs.inputs.repeat(8, 1, 1, 1) * torch.arange(1, 401).view(-1, 1, 1, 1)
    slow = SlowPairs(inputs, torch.arange(400) % 4)
    options = {"cut": ["stem", "block"], "batch_size": 10, "shard_bytes": 1, "workers": 0}
    here = featcache.extract(net, slow, str(tmp_path / "here"), **options)
    killed = []

    def kill(event: featcache.ProgressEvent) -> None:
        if event.stage == "extract" and event.done and not killed and actors():
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    there = featcache.extract(net, slow, str(tmp_path / "there"), engine="ray:2", progress=kill, **options)
    assert killed
    for cut, features in here.items():
        assert features.report.computed == there[cut].report.computed == 400
        assert np.array_equal(features.numpy()[0], there[cut].numpy()[0])
        assert not featcache.FeatureStore(str(tmp_path / "there")).verify().damaged


@pytest.mark.slow
def test_an_error_in_an_actor_comes_back_as_it_was(cluster, made, pairs, tmp_path) -> None:
    bad = TensorPairs(pairs.inputs.clone(), pairs.targets_of)
    bad.inputs[7] = float("nan")
    with pytest.raises(featcache.errors.NonFiniteError, match="7"):
        featcache.extract(made, bad, str(tmp_path / "s"), engine="ray:1")
