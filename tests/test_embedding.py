"""featcache inside someone's program: in threads, in worker processes of every kind, and leaving nothing behind."""

from __future__ import annotations

import copy
import gc
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import warnings
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch

import featcache

METHODS = [method for method in ("fork", "forkserver", "spawn") if method in multiprocessing.get_all_start_methods()]


def extract(net, pairs, store: str) -> tuple[int, int, np.ndarray]:
    features = featcache.extract(net, pairs, store, cut="block", batch_size=10, shard_bytes=1)
    return features.report.computed, features.report.reused, features.numpy()[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_worker_processes_of_a_program_extract_read_and_give_features_to_each_other(
    net, pairs, tmp_path, method: str
) -> None:
    before = extract(net, pairs, str(tmp_path / "before"))[2]  # the parent has used all of it already
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that of forking a process with threads
        computed, reused, values = pool.submit(extract, net, pairs, str(tmp_path / "store")).result(60)
        assert (computed, reused) == (50, 0)
        assert np.array_equal(values, before)
        features = featcache.extract(net, pairs, str(tmp_path / "store"), cut="block")
        assert features.report.reused == 50
        assert np.array_equal(pool.submit(features.numpy).result(60)[0], before)


def test_threads_share_one_extraction_and_get_the_same(net, pairs, tmp_path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: extract(net, pairs, str(tmp_path / "store")), range(4)))
    assert all(np.array_equal(values, found[0][2]) for _, _, values in found)
    assert all(computed + reused == 50 for computed, reused, _ in found)
    assert (
        sum(computed for computed, _, _ in found) <= 60
    )  # what two began in the same moment is computed twice at most


def test_a_program_finds_its_own_settings_as_they_were(net, pairs, tmp_path) -> None:
    def settings() -> list:
        return [
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
            torch.backends.cudnn.benchmark,
            np.random.get_state()[1].tolist(),
            random.getstate(),
            logging.getLogger().handlers[:],
            logging.getLogger().level,
            multiprocessing.get_start_method(allow_none=True),
            dict(os.environ),
            os.getcwd(),  # noqa: PTH109
            [module.training for module in net.modules()],
            [parameter.requires_grad for parameter in net.parameters()],
        ]

    def use(store: str) -> None:
        split = featcache.split(net, "block", (pairs.inputs[:2],))
        features = featcache.extract(split, pairs, str(tmp_path / store))
        featcache.train_head(split, features, epochs=1)

    use("first")  # modules that are imported for the first time, such as rich, draw random numbers
    before = settings()
    use("second")
    assert settings() == before


def test_an_extraction_lets_go_of_the_network_at_once(net, pairs, tmp_path) -> None:
    """A GPU's memory is free again when the caller lets go, and not when Python happens to collect circles."""
    featcache.extract(copy.deepcopy(net), pairs, str(tmp_path / "store"), cut="stem")
    gc.collect()
    gc.disable()
    try:
        network = copy.deepcopy(net)
        alive = weakref.ref(network)
        features = featcache.extract(network, pairs, str(tmp_path / "store"), cut="block")
        del network
        assert alive() is None
        assert len(features) == 50
    finally:
        gc.enable()


def test_what_happens_goes_to_the_callers_logging_and_callback(net, pairs, tmp_path, caplog, capsys) -> None:
    seen: list[featcache.ProgressEvent] = []
    with caplog.at_level(logging.INFO, "featcache"):
        featcache.extract(net, pairs, str(tmp_path / "store"), cut="block", progress=seen.append)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("extract", 50, 50)
    assert [event.done for event in seen if event.stage == "extract"] == sorted(
        event.done for event in seen if event.stage == "extract"
    )
    assert {record.name.partition(".")[0] for record in caplog.records} == {"featcache"}
    assert capsys.readouterr() == ("", "")


def test_a_process_of_ones_own_can_keep_the_memory_that_it_frees_as_the_command_line_does() -> None:
    code = """
import resource, numpy
from featcache.machine.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(50 << 20, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
kept = keep_freed_memory()
faults()
print(kept, given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, given_back, again = done.stdout.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert 4 * int(again) < int(given_back)
