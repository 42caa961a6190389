"""Dividing an extraction among jobs, sending it to other processes, and saying where the time went."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.engines.processes import ProcessesEngine
from featcache.extraction.slices import TaskSlice

from ..conftest import TensorPairs


@pytest.mark.slow
def test_the_slices_of_an_extraction_make_the_whole_in_any_order_and_more_than_once(made, pairs, tmp_path) -> None:
    store, few = str(tmp_path / "sliced"), {"batch_size": 5, "shard_bytes": 1}
    tasks = featcache.missing_tasks(made, pairs, store, **few)
    assert [task.task for task in tasks] == [f"{number}/10" for number in range(1, 11)]
    assert sum(task.rows for task in tasks) == 50
    assert not Path(store).exists()
    for task in ("3/4", "1/4", "3/4", "4/4"):
        report = featcache.extract(made, pairs, store, task=task, **few).report
    assert (report.task, report.computed, report.remaining, report.skipped) == ("4/4", 10, 15, 0)
    left = featcache.missing_tasks(made, pairs, store, **few)
    assert [task.task for task in left] == ["2/10", "6/10", "10/10"]
    assert featcache.extract(made, pairs, store, task="6/10", **few).report.computed == 5
    features = featcache.extract(made, pairs, store, task="2/4", **few)
    assert (features.report.computed, features.report.remaining) == (10, 0)
    assert len(features.report.shards) == 2
    assert featcache.missing_tasks(made, pairs, store, **few) == []
    whole = featcache.extract(made, pairs, str(tmp_path / "whole"), **few)
    assert np.array_equal(features.numpy()[0], whole.numpy()[0])
    assert featcache.extract(made, pairs, store, **few).report.reused == 50


@pytest.mark.slow
def test_slices_of_several_cuts_and_views_leave_nothing_out(net, pairs, tmp_path) -> None:
    options = {"cut": ["stem", "block"], "augment": "flip", "views": 2, "batch_size": 5, "shard_bytes": 1}
    for number in (2, 3, 1):
        made = featcache.extract(net, pairs, str(tmp_path / "store"), task=f"{number}/3", **options)
    assert [features.report.remaining for features in made.values()] == [0, 0]
    assert [features.views for features in made.values()] == [2, 2]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "1/2/3"])
def test_a_task_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(featcache.errors.UsageError, match="K/N"):
        TaskSlice.parse(text)


@pytest.mark.slow
def test_the_command_lists_and_runs_tasks(image_folder, featcache_command) -> None:
    options = ["--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--cut", "layer3"]
    plan = json.loads(featcache_command("extract", *options, "--plan-only", "--json").stdout)
    assert plan == [{"task": "1/1", "cuts": ["layer3"], "rows": 18}]
    (receipt,) = json.loads(featcache_command("extract", *options, "--task", "1/1", "--json").stdout)
    assert (receipt["task"], receipt["computed"], len(receipt["shards"])) == ("1/1", 18, 1)
    assert (featcache_command.folder / "features" / receipt["shards"][0]).is_file()
    assert json.loads(featcache_command("extract", *options, "--plan-only", "--json").stdout) == []
    featcache_command("extract", *options, "--task", "2/1", expect=2)


@pytest.mark.slow
def test_an_extraction_says_what_bounds_it_and_logs_events_as_json(image_folder, featcache_command) -> None:
    options = ["--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--cut", "layer3"]
    assert "bound by: " in featcache_command("extract", *options).stderr
    done = featcache_command("extract", *options, "--image-size", "40", "--json", "--log-json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"task", "progress", "message"} <= {line["event"] for line in lines}
    timings = json.loads(done.stdout)[0]["timings"]
    assert all(timings[part] > 0 for part in ("decode_s", "wait_s", "forward_s", "write_s"))


class SlowPairs(TensorPairs):
    """Samples that take their time."""

    def __getitem__(self, index: int):
        time.sleep(0.002)
        return super().__getitem__(index)


def test_slow_samples_are_what_bounds_an_extraction(made, pairs, tmp_path, caplog) -> None:
    slow = SlowPairs(pairs.inputs, pairs.targets_of)
    with caplog.at_level(logging.INFO, "featcache"):
        report = featcache.extract(made, slow, str(tmp_path / "store"), workers=0).report
    assert report.timings.decode_s >= 0.1
    assert report.timings.bound().part == "image decoding"
    (event,) = [record for record in caplog.records if getattr(record, "event", "") == "task"]
    assert event.decode_s == report.timings.decode_s


def test_a_job_pickles_with_a_single_recording_for_all_cuts(net, pairs, tmp_path) -> None:
    sent = []

    class Sending:
        def run(self, job, tasks):
            sent.append(pickle.dumps(job))
            yield from pickle.loads(sent[-1]).run(tasks)

    from featcache.engines.engine import engines

    engines.register("sending", Sending())
    options = {"cut": ["stem", "block"], "batch_size": 16}
    there = featcache.extract(net, pairs, str(tmp_path / "sent"), engine="sending", **options)
    here = featcache.extract(net, pairs, str(tmp_path / "here"), **options)
    assert len(sent) == 1
    for cut, features in here.items():
        assert np.array_equal(features.numpy()[0], there[cut].numpy()[0])


def test_functions_that_name_featcache_can_be_sent_elsewhere_by_value() -> None:
    """Ray, Dask and Spark do so with functions of a script or notebook, and the module goes along by its name."""
    cloudpickle = pytest.importorskip("cloudpickle")
    assert pickle.loads(cloudpickle.dumps(lambda: featcache))() is featcache


@pytest.mark.slow
def test_worker_processes_give_what_one_process_gives_even_when_one_is_killed(net, pairs, tmp_path) -> None:
    slow = SlowPairs(pairs.inputs.repeat(4, 1, 1, 1) * torch.arange(1, 201).view(-1, 1, 1, 1), torch.arange(200) % 4)
    options = {"cut": ["stem", "block"], "batch_size": 5, "shard_bytes": 1, "workers": 0}
    here = featcache.extract(net, slow, str(tmp_path / "here"), **options)
    killed = []

    def kill(event: featcache.ProgressEvent) -> None:
        if event.stage == "extract" and event.done and not killed:
            children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
            workers = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
            killed.append(workers[0])
            os.kill(int(workers[0]), signal.SIGKILL)

    there = featcache.extract(net, slow, str(tmp_path / "there"), engine="processes:2", progress=kill, **options)
    assert killed
    for cut, features in here.items():
        assert features.report.computed == there[cut].report.computed == 200
        assert np.array_equal(features.numpy()[0], there[cut].numpy()[0])


class DevicesJob:
    """A job as an engine sees it: each worker notes its device in a file, and the one that has task 5 first dies."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = torch.device(device), folder

    def moved(self, device: str) -> DevicesJob:
        return DevicesJob(device, self.folder)

    def run(self, tasks):
        for task in tasks:
            (self.folder / f"{os.getpid()}.worker").write_text(str(self.device))
            if task == 5 and not (self.folder / "died").exists():
                (self.folder / "died").write_text(str(self.device))
                os.kill(os.getpid(), signal.SIGKILL)
            while task > 10 and len(list(self.folder.glob("*.worker"))) < 3:
                time.sleep(0.01)  # until another has taken its place
            yield task


@pytest.mark.slow
def test_each_worker_has_a_device_of_its_own_and_who_takes_the_place_of_a_dead_one_has_its(tmp_path: Path) -> None:
    engine = ProcessesEngine(devices=["cuda:0", "cuda:1"])  # of which nothing is asked here but their names
    assert sorted(engine.run(DevicesJob("cuda", tmp_path), range(20))) == list(range(20))
    devices = sorted(file.read_text() for file in tmp_path.glob("*.worker"))
    assert devices == sorted(["cuda:0", "cuda:1", (tmp_path / "died").read_text()])


def test_what_does_not_pickle_is_refused_before_a_worker_starts(made, pairs, tmp_path) -> None:
    class Local(TensorPairs):
        pass

    with pytest.raises(featcache.errors.UsageError, match="top of a module"):
        featcache.extract(made, Local(pairs.inputs, pairs.targets_of), str(tmp_path / "s"), engine="processes:2")


@pytest.mark.slow
def test_an_error_in_a_worker_comes_back_as_it_was(made, pairs, tmp_path) -> None:
    bad = TensorPairs(pairs.inputs.clone(), pairs.targets_of)
    bad.inputs[7] = float("nan")
    with pytest.raises(featcache.errors.NonFiniteError, match="7"):
        featcache.extract(made, bad, str(tmp_path / "s"), engine="processes:1")


@pytest.mark.parametrize("engine", ["local:2", "processes:0", "processes:x", "nowhere"])
def test_an_engine_that_is_none_is_refused(made, pairs, tmp_path, engine: str) -> None:
    with pytest.raises(featcache.errors.UsageError):
        featcache.extract(made, pairs, str(tmp_path / "s"), engine=engine)
