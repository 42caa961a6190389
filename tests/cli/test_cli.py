from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from featcache import FeatureStore, open_dataset
from featcache.cli.main import run
from featcache.identity import file_id

from ..conftest import CommandLine


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 of scikit-learn's digits as an image folder with splits."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for number in range(200):
        split = "test" if number % 4 == 0 else "train"
        folder = root / split / str(digits.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture
def command(featcache_command: CommandLine, digit_folder: Path) -> CommandLine:
    shutil.copytree(digit_folder, featcache_command.folder / "digits")
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:digits"\n'
    )
    return featcache_command


@pytest.mark.slow
def test_the_main_job_from_the_command_line(command: CommandLine) -> None:
    first = command("extract", "--cut", "layer4")
    assert "200 computed, 0 reused" in first.stderr
    assert first.stdout == ""
    trained = command("train-head", "--epochs", "40")
    assert "trained suffix after layer4" in trained.stderr
    assert float(trained.stdout.split("test: accuracy ")[1].split(" %")[0]) > 80
    again = command("extract", "--cut", "layer4")
    assert "0 computed, 200 reused" in again.stderr
    assert "nothing to compute" in again.stderr
    command("extract", "--cut", "layer3")
    deeper = command("train-head", "--epochs", "20")
    assert "after layer3" in deeper.stderr
    status = command("status")
    assert status.stdout.count("fresh") == 2
    assert "fresh" in command("explain").stdout
    assert "layer3" in command("ls").stdout
    assert "0 damaged" in command("verify").stdout
    predicted = command("predict", "digits/test/3", "digits/test/7")
    rows = list(csv.DictReader(io.StringIO(predicted.stdout)))
    assert {row["label"] for row in rows} <= {str(number) for number in range(10)}
    right = [row["label"] == Path(row["name"]).parent.name for row in rows]
    assert sum(right) / len(right) > 0.8
    assert all(abs(sum(float(row[str(digit)]) for digit in range(10)) - 1) < 1e-4 for row in rows)


@pytest.mark.slow
def test_every_command_gives_one_json_document_with_the_field_names_of_the_library(command: CommandLine) -> None:
    report = json.loads(command("extract", "--cut", "layer4", "--json").stdout)[0]
    assert (report["samples"], report["computed"], report["reused"]) == (200, 200, 0)
    trained = json.loads(command("train-head", "--epochs", "2", "--optimizer", "adamw", "--json").stdout)
    assert trained["metrics"]["split"] == "test"
    assert len(trained["history"]) == 2
    assert json.loads(command("status", "--json").stdout)[0]["state"] == "fresh"
    assert json.loads(command("explain", "--json").stdout)[0]["differences"] == []
    assert json.loads(command("ls", "--json").stdout)[0]["rows"] == 200
    assert json.loads(command("verify", "--json").stdout)["damaged"] == []
    assert "layer3" in [cut["name"] for cut in json.loads(command("cuts", "--json").stdout)]
    assert len(json.loads(command("predict", "digits/test/1", "--json").stdout)) > 1


@pytest.mark.slow
def test_status_exits_3_when_stale_missing_or_partial_and_explain_says_why(command: CommandLine) -> None:
    assert "layer4" in command("status", "--cut", "layer4", expect=3).stdout
    command("extract", "--cut", "layer4")
    Image.new("L", (8, 8), 99).save(command.folder / "digits" / "train" / "0" / "new.png")
    partial = command("status", expect=3)
    assert "partial" in partial.stdout
    assert "train/0/new.png" in command("explain", expect=3).stdout
    stale = command("explain", "--cut", "layer4", "--image-size", "40", expect=3)
    assert "transform" in stale.stdout
    code = "structure: the code or structure of the backbone up to the cut changed"
    assert f"{code}, or only the size of its input\n" in stale.stdout
    assert "featcache extract --cut layer4" in stale.stdout
    refused = command("train-head", "--image-size", "40", "--cut", "layer4", expect=3)
    assert "layer4 (200 rows, float32)" in refused.stderr
    command("extract", "--cut", "layer4")
    command("status")


@pytest.mark.slow
def test_training_needs_no_images(command: CommandLine) -> None:
    command("extract", "--cut", "layer4")
    (command.folder / "digits").rename(command.folder / "elsewhere")
    trained = command("train-head", "--epochs", "2")
    assert "digits is not here" in trained.stderr


@pytest.mark.slow
def test_flags_override_the_file_and_the_file_overrides_the_defaults(command: CommandLine) -> None:
    (command.folder / "other.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:digits"\nstore = "there"\n[extract]\ncut = ["layer4"]\n'
        '[train-head]\nepochs = 3\noptimizer = "adamw"\n'
    )
    command("extract", "--config", "other.toml")
    assert (command.folder / "there" / "store.json").is_file()
    assert len(json.loads(command("train-head", "--config", "other.toml", "--json").stdout)["history"]) == 3
    trained = json.loads(command("train-head", "--config", "other.toml", "--epochs", "1", "--json").stdout)
    assert len(trained["history"]) == 1


@pytest.mark.slow
def test_layers_have_learning_rates_of_their_own(command: CommandLine) -> None:
    command("extract", "--cut", "layer3")
    rates = ("--learning-rates", "layer4.*=1e-4", "--learning-rates", "fc.*=1e-2")
    same = ("--learning-rates", "*=1e-3", "--learning-rate", "1e-3")
    histories = [
        json.loads(command("train-head", "--epochs", "1", *given, "--json").stdout)["history"]
        for given in (rates, same, ())
    ]
    assert histories[0][0]["train_loss"] != histories[1][0]["train_loss"] == histories[2][0]["train_loss"]
    for wrong in ("layer4.*", "=1", "fc=fast", "fc=0", "fc=inf"):
        assert (
            "takes NAME=RATE with a finite rate above 0"
            in command("train-head", "--learning-rates", wrong, expect=2).stderr
        )
    twice = command("train-head", "--learning-rates", "fc=1", "--learning-rates", "fc=2", expect=2)
    assert "names 'fc' twice" in twice.stderr
    refused = command("train-head", "--schedule", "layer3:1", "--learning-rates", "fc=1", expect=2)
    assert "--learning-rates does not go with a schedule" in refused.stderr


@pytest.mark.slow
def test_options_of_steps_have_steps_taken_where_a_layer_would_be_solved(command: CommandLine) -> None:
    command("extract", "--cut", "layer4")
    assert "solved with a penalty of" in command("train-head").stderr
    assert ", 2 epochs" in command("train-head", "--epochs", "2").stderr
    assert ", 20 epochs" in command("train-head", "--lr-schedule", "constant").stderr
    refused = command("train-head", "--optimizer", "lbfgs", "--epochs", "2", expect=2)
    assert "lbfgs takes no steps that epochs could belong to" in refused.stderr


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["extract"], 2, "no cut"),
        (["extract", "--cut", "layr4"], 2, "layer4"),
        (["extract", "--cut", "layer4", "--data", "folder:nowhere"], 1, "no folder nowhere"),
        (["extract", "--cut", "layer4", "--data", "folder:empty"], 1, "no class folders"),
        (["extract", "--cut", "layer4", "--data", "folder:hollow"], 1, "no images"),
        (["extract", "--cut", "layer4", "--data", "foldr:x"], 2, "'folder'"),
        (["extract", "--cut", "layer4", "--data", "digits"], 2, "not a data specification"),
        (["extract", "--cut", "layer4", "--backbone", "bundled:resnet"], 2, "resnet-mini"),
        (["extract", "--cut", "layer4", "--backbone", "torchvision:resnet81"], 2, "resnet18"),
        (["extract", "--cut", "layer4", "--backbone", "nothing.py:make"], 2, "no file nothing.py"),
        (["extract", "--cut", "layer4", "--backbone", "nosuchmodule:make"], 2, "nosuchmodule"),
        (["extract", "--cut", "layer4", "--backbone", "torchvison:resnet18"], 2, "'torchvision'"),
        (["extract", "--cut", "layer4", "--weights", "gone.safetensors"], 1, "gone.safetensors"),
        (["extract", "--cut", "layer4", "--dtype", "float8"], 2, "float16"),
        (["extract", "--cut", "layer4", "--device", "gpu"], 2, "unknown device"),
        (["extract", "--cut", "layer4", "--store", "digits"], 1, "not a featcache store"),
        (["extract", "--cut", "layer4", "--batch-size", "0"], 2, "batch-size"),
        (["extract", "--cut", "layer4", "--config", "no.toml"], 2, "no.toml"),
        (["train-head"], 2, "no cut was given"),
        (["train-head", "--cut", "layer4"], 3, "extract --cut layer4"),
        (["status"], 2, "no cut"),
        (["predict", "digits"], 1, "no head yet"),
        (["predict"], 2, "no input"),
        (["exract"], 2, "extract"),
        (["extract", "--ct", "layer4"], 2, "--cut"),
        (["ls", "--store", "featcache.toml"], 1, "not a"),
    ],
)
def test_wrong_input_is_one_line_with_the_right_exit_code_and_leaves_nothing_behind(
    command: CommandLine, monkeypatch, capsys, arguments: list[str], code: int, words: str
) -> None:
    (command.folder / "empty").mkdir()
    (command.folder / "hollow" / "a").mkdir(parents=True)
    monkeypatch.chdir(command.folder)
    assert run(arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert not (command.folder / "features").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "value"), [("--codec", "gzip"), ("--store-budget", "much")])
def test_a_wrong_option_is_refused_where_nothing_is_left_to_compute_too(
    command: CommandLine, option: str, value: str
) -> None:
    command("extract", "--cut", "layer4")
    refused = command("extract", "--cut", "layer4", option, value, expect=2)
    assert value in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_wrong_keys_in_the_file_are_named(command: CommandLine) -> None:
    path = command.folder / "featcache.toml"
    good = path.read_text()
    for text, words in (
        (good + "[extract]\ncutt = 3\n", "cut"),
        (good + "[extrct]\n", "extract"),
        (good + "bakbone = 1\n", "backbone"),
        ("backbone = [", "TOML"),
    ):
        path.write_text(text)
        assert words in one_line(command("extract", "--cut", "layer4", expect=2))


@pytest.mark.slow
def test_one_class_and_a_newer_store_are_refused(command: CommandLine) -> None:
    shutil.copytree(command.folder / "digits" / "train" / "3", command.folder / "single" / "three")
    command("extract", "--cut", "layer4", "--data", "folder:single", "--store", "one")
    assert "only one class" in one_line(command("train-head", "--data", "folder:single", "--store", "one", expect=1))
    command("extract", "--cut", "layer4")
    (command.folder / "features" / "store.json").write_text('{"format": 99}')
    assert "upgrade featcache" in one_line(command("extract", "--cut", "layer4", expect=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_without_permission_is_refused(command: CommandLine) -> None:
    (command.folder / "locked").mkdir(mode=0o500)
    assert "permission" in one_line(command("extract", "--cut", "layer4", "--store", "locked/s", expect=1))


@pytest.mark.slow
def test_a_model_that_returns_a_tuple_is_trained_and_nan_features_are_named(command: CommandLine) -> None:
    (command.folder / "nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from featcache.backbones.resnet_mini import resnet_mini, transform\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = resnet_mini()\n"
        "    def forward(self, x):\n"
        "        return self.inner(x), 1\n"
        "def pair():\n"
        "    return Pair(), transform()\n"
        "class Divides(nn.Module):\n"
        "    def forward(self, x):\n"
        "        x = x.mean(dim=(2, 3)) + 0.4242\n"
        "        return x / (x > 0.1).float()\n"
        "def nan():\n"
        "    return nn.Sequential(Divides(), nn.Linear(1, 4)), transform()\n"
    )
    command("extract", "--cut", "inner.layer4", "--backbone", "nets.py:pair", "--store", "p")
    arguments = ["--backbone", "nets.py:pair", "--store", "p", "--epochs", "1"]
    assert "trained suffix after inner.layer4" in command("train-head", *arguments).stderr
    Image.new("L", (8, 8), 0).save(command.folder / "digits" / "train" / "0" / "black.png")
    refused = one_line(command("extract", "--cut", "0", "--backbone", "nets.py:nan", expect=1))
    assert "black.png" in refused
    assert "NaN" in refused


@pytest.mark.slow
def test_a_killed_extract_goes_on_at_its_last_whole_shard(command: CommandLine) -> None:
    arguments = ["extract", "--cut", "layer4", "--batch-size", "8"]
    (command.folder / "slow.py").write_text(
        "import time\n"
        "from featcache.backbones.bundled import source\n"
        "from featcache.backbones.resnet_mini import transform\n"
        "class Slow:\n"
        "    featcache_identity = 'slow'\n"
        "    def __call__(self, image):\n"
        "        time.sleep(0.01)\n"
        "        return transform()(image)\n"
        "def make():\n"
        "    return Slow()\n"
    )
    killer = (
        "from featcache.extraction import fill; fill.MAX_SHARD_ROWS = 16\nfrom featcache.cli.main import main; main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", killer, *arguments, "--transform", "slow.py:make"],
        cwd=command.folder,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(command.folder.glob("features/sets/*/*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = FeatureStore(str(command.folder / "features")).sets()[0].rows
    assert 32 <= saved < 200
    assert saved % 16 == 0
    report = json.loads(command(*arguments, "--transform", "slow.py:make", "--json").stdout)[0]
    assert (report["computed"], report["reused"]) == (200 - saved, saved)
    assert not list(command.folder.glob("features/**/.tmp*"))
    command(*arguments, "--transform", "slow.py:make", "--store", "undisturbed")
    rows = []
    for store in ("features", "undisturbed"):
        opened = FeatureStore(str(command.folder / store))
        feature_set = opened.set(opened.recipes()[0])
        shards = [feature_set.open_shard(name) for name in feature_set.shard_names()]
        ids = np.concatenate([shard.ids for shard in shards])
        values = np.concatenate([shard.features["layer4"] for shard in shards])
        rows.append(values[np.argsort(ids.view("S16").reshape(-1))])
    assert np.array_equal(rows[0], rows[1])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_what_was_computed_and_say_so(command: CommandLine, number: int, code: int) -> None:
    (command.folder / "slow.py").write_text(
        "import time\n"
        "from featcache.backbones.resnet_mini import transform\n"
        "class Slow:\n"
        "    featcache_identity = 'slow'\n"
        "    def __call__(self, image):\n"
        "        time.sleep(0.02)\n"
        "        open('started', 'a').write('x')\n"
        "        return transform()(image)\n"
        "def make():\n"
        "    return Slow()\n"
    )
    arguments = ["extract", "--cut", "layer4", "--batch-size", "8", "--transform", "slow.py:make", "--workers", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "featcache", *arguments],
        cwd=command.folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # what a shell starts with & ignores SIGINT
    )
    started = command.folder / "started"
    deadline = time.monotonic() + 60
    while (not started.exists() or started.stat().st_size < 80) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code
    assert "saved" in words
    assert "Traceback" not in words
    saved = FeatureStore(str(command.folder / "features")).sets()[0].rows
    assert saved >= 8
    report = json.loads(command(*arguments, "--json").stdout)[0]
    assert report["reused"] == saved


@pytest.mark.slow
def test_importing_featcache_and_asking_for_help_or_status_loads_no_torch(command: CommandLine) -> None:
    command("extract", "--cut", "layer4")
    code = (
        "import sys; from featcache.cli.main import run; code = run(sys.argv[1:]);"
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    for arguments in (
        ["--help"],
        ["extract", "--help"],
        ["status"],
        ["extract", "--cut", "layer4"],
        ["ls"],
        ["verify"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=command.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "False", arguments
    light = "import featcache, sys; dir(featcache); print([name for name in ('torch', 'numpy', 'h5py') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_init_writes_a_file_that_works_and_does_not_overwrite_one(command: CommandLine) -> None:
    (command.folder / "featcache.toml").unlink()
    command("init", "--backbone", "bundled:resnet-mini", "--data", "folder:digits", "--cut", "layer4")
    command("extract")
    command("train-head", "--epochs", "1")
    command("export", "--to", "features.npy")
    assert "exists already" in one_line(command("init", expect=2))


@pytest.mark.slow
@pytest.mark.parametrize("cut", ['"layer4"', '["layer4"]', '["layer3", "layer4"]'])
def test_the_cut_of_the_configuration_may_be_one_or_several(command: CommandLine, cut: str) -> None:
    (command.folder / "featcache.toml").write_text(
        f'backbone = "bundled:resnet-mini"\ndata = "folder:digits"\ncut = {cut}\n'
    )
    command("extract")
    command("status")
    assert "after layer4" in command("train-head", "--epochs", "1").stderr


@pytest.mark.slow
def test_advice_compares_cuts_although_the_configuration_names_the_one_in_use(command: CommandLine) -> None:
    (command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:digits"\ncut = "layer4"\n[probe]\ncut = ["layer3"]\n'
    )
    assert len(json.loads(command("plan", "--json").stdout)["rows"]) > 3
    assert len(json.loads(command("plan", "--json", "--cut", "layer4").stdout)["rows"]) == 1
    assert [row["cut"] for row in json.loads(command("probe", "--json").stdout)["rows"]] == ["layer3"]


@pytest.mark.slow
def test_predict_skips_or_names_what_cannot_be_read_and_knows_its_heads(command: CommandLine) -> None:
    command("extract", "--cut", "layer4")
    command("train-head", "--epochs", "1", "--name", "mine")
    (command.folder / "bad.png").write_bytes(b"no image")
    assert "bad.png" in one_line(command("predict", "bad.png", expect=1))
    skipped = command("predict", "bad.png", "digits/test/1", "--on-error", "skip", "--out", "out.csv")
    assert "skipped bad.png" in skipped.stderr
    assert (command.folder / "out.csv").read_text().startswith("name,label")
    assert "mine" in one_line(command("predict", "digits", "--head", "mind", expect=2))
    assert "cannot be the name" in one_line(command("train-head", "--name", "../x", "--epochs", "1", expect=2))


@pytest.mark.slow
def test_predict_lists_a_folder_as_extract_does_and_says_what_both_leave_out(command: CommandLine) -> None:
    folder = command.folder / "digits" / "test" / "3"
    shutil.copytree(folder, command.folder / "elsewhere")
    (folder / "more").symlink_to(command.folder / "elsewhere", target_is_directory=True)
    (folder / "._0.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    left = "note: 2 files left out: 1 .txt, 1 hidden."
    assert left in command("extract", "--cut", "layer4").stderr.splitlines()
    assert left in command("plan", "--cut", "layer4").stderr.splitlines()
    command("train-head", "--epochs", "1")
    predicted = command("predict", "digits")
    assert left in predicted.stderr.splitlines()
    listed = [Path(row["name"]).relative_to("digits") for row in csv.DictReader(io.StringIO(predicted.stdout))]
    assert sorted(map(str, listed)) == sorted(open_dataset(f"folder:{command.folder / 'digits'}").names)
    pytest.importorskip("jinja2")
    command("report")
    assert left.removeprefix("note: ").rstrip(".") in (command.folder / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_files_are_read_once_in_the_first_extract_and_not_at_all_in_the_next(
    command: CommandLine, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(command.folder)
    read: list[Path] = []

    def counted(path: Path | str) -> bytes:
        read.append(Path(path))
        return file_id(path)

    monkeypatch.setattr("featcache.samples.file_memo.file_id", counted)
    time.sleep(2.1)  # what was written a moment ago is not trusted yet
    for expected in (200, 0):
        read.clear()
        assert run(["extract", "--cut", "layer4"]) == 0
        assert len(read) == expected


@pytest.mark.slow
def test_a_weight_that_both_sides_of_the_cut_share_is_warned_of_in_one_line(command: CommandLine) -> None:
    (command.folder / "twice.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from featcache.backbones.resnet_mini import transform\n"
        "class Twice(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.block, self.between, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 10)\n"
        "    def forward(self, x):\n"
        "        x = self.block(x.flatten(1)[:, ::x[0].numel() // 4][:, :4])\n"
        "        return self.fc(torch.relu(self.block(self.between(x))))\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Twice(), transform()\n"
    )
    extracted = command("extract", "--cut", "between", "--backbone", "twice.py:make")
    warned = [line for line in extracted.stderr.splitlines() if "tied" in line]
    assert len(warned) == 1
    assert warned[0].startswith("warning: tied parameters are used on both sides of the cut 'between' (block.bias")
    assert (
        "trained suffix after between" in command("train-head", "--backbone", "twice.py:make", "--epochs", "1").stderr
    )


OWN_NETWORK = """
import sys

import PIL.Image
import torch
from torchvision.transforms import v2

really_open = PIL.Image.open


def open_and_tell(file, *options, **more):
    print("opened an image", file=sys.stderr)
    return really_open(file, *options, **more)


PIL.Image.open = open_and_tell


def factory():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    network = torch.nn.Sequential(*layers)
    return network.eval(), v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
"""


@pytest.mark.slow
def test_training_opens_no_image_whatever_the_source_of_the_network(featcache_command: CommandLine) -> None:
    (featcache_command.folder / "net.py").write_text(OWN_NETWORK)
    for side in (8, 16):  # the same network and transform, on images of two sizes
        for number in range(12):
            folder = featcache_command.folder / f"data{side}" / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), (number * 20, 0, side)).save(folder / f"{number}.png")
    for side in (8, 16):
        network = ["--backbone", "net.py:factory", "--cut", "0", "--data", f"folder:data{side}"]
        assert "opened an image" in featcache_command("extract", *network).stderr
    for side in (8, 16):
        network = ["--backbone", "net.py:factory", "--cut", "0", "--data", f"folder:data{side}"]
        trained = featcache_command("train-head", *network, "--epochs", "1")
        assert "12 cached samples" in trained.stderr
        assert "opened an image" not in trained.stderr


@pytest.mark.slow
def test_names_that_are_not_utf_8_end_no_command_and_are_written_with_escapes(command: CommandLine) -> None:
    """As in an archive that an older Windows packed: a class folder and a file in Latin-1."""
    for number in range(4):
        name = os.fsdecode((b"data/caf\xe9/\xfc%d.png" if number % 2 else b"data/b/%d.png") % number)
        place = command.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 60, 90, 200)).save(place, "PNG")
    strict = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:strict"}

    def run_strictly(*arguments: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "featcache", *arguments], cwd=command.folder, capture_output=True, env=strict
        )
        assert done.returncode == 0, done.stderr
        done.stderr.decode("utf-8")
        return done.stdout

    given = ("--data", "folder:data")
    json.loads(run_strictly("extract", "--cut", "layer4", "--json", *given))
    json.loads(run_strictly("train-head", "--epochs", "1", "--json", *given))
    for arguments in (("status",), ("status", "--json"), ("explain",), ("plan", "--json"), ("ls",), ("verify",)):
        run_strictly(*arguments, *(given if arguments[0] not in ("ls", "verify") else ()))
    rows = list(csv.reader(io.StringIO(run_strictly("predict", "data").decode("utf-8"))))
    assert rows[0] == ["name", "label", "probability", "b", r"caf\xe9"]
    assert [row[0] for row in rows[1:]] == [
        "data/b/0.png",
        "data/b/2.png",
        r"data/caf\xe9/\xfc1.png",
        r"data/caf\xe9/\xfc3.png",
    ]
    described = json.loads(run_strictly("predict", "data", "--json"))
    assert [each["name"] for each in described] == [row[0] for row in rows[1:]]
    assert {*described[0]["probabilities"]} == {"b", r"caf\xe9"}
    for out in ("p.csv", "p.json", "p.npz"):
        run_strictly("predict", "data", "--format", out[2:], "--out", out)
    assert (command.folder / "p.csv").read_text("utf-8").splitlines()[0].endswith(r"caf\xe9")
    with np.load(command.folder / "p.npz") as arrays:
        assert arrays["classes"].tolist() == ["b", r"caf\xe9"]
        assert arrays["names"].tolist() == [row[0] for row in rows[1:]]
    for out in ("f.npz", "f.npy", "f.h5"):
        run_strictly("export", "--to", out, "--cut", "layer4", *given)
    with np.load(command.folder / "f.npz") as arrays:
        assert arrays["names"].tolist()[-1] == r"caf\xe9/\xfc3.png"
    run_strictly("report")
    assert r"caf\xe9" in (command.folder / "report.html").read_text("utf-8")
    parquet = pytest.importorskip("pyarrow.parquet")
    run_strictly("export", "--to", "f.parquet", "--cut", "layer4", *given)
    table = parquet.read_table(command.folder / "f.parquet")
    assert table["name"].to_pylist()[-1] == r"caf\xe9/\xfc3.png"
    assert json.loads(table.schema.metadata[b"featcache"])["classes"] == ["b", r"caf\xe9"]


@pytest.mark.slow
def test_train_head_says_what_it_replaces_and_whose_cut_was_extracted_last(command: CommandLine) -> None:
    command("extract", "--cut", "layer4")
    train = ("train-head", "--epochs", "1", "--head", "linear")
    assert "replaces" not in command(*train).stderr
    assert re.search(
        r"note: replaces the head digits-\w+-layer4-linear that was there; --name keeps", command(*train).stderr
    )
    named = (*train, "--name", "mine")
    assert "replaces" not in command(*named).stderr
    before = (command.folder / "features" / "heads" / "mine" / "head.json").read_bytes()
    assert "holds a head 'mine': give another --name, or replace it with --force" in command(*named, expect=2).stderr
    assert (command.folder / "features" / "heads" / "mine" / "head.json").read_bytes() == before
    assert "note: replaces the head mine that was there; --name keeps both." in command(*named, "--force").stderr
    other = ("--backbone", "torchvision:squeezenet1_0", "--weights", "none")
    said = command("train-head", *other, "--epochs", "1", expect=2).stderr
    assert "'layer4', the cut extracted last, is one of another backbone: use --cut" in said


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["probe", "sweep --epochs 1 --seeds 1"])
def test_advice_on_a_damaged_sample_is_refused_or_given_without_it_and_says_so(
    command: CommandLine, asked: str
) -> None:
    (command.folder / "digits" / "train" / "1" / "bad.png").write_bytes(b"no image")
    asked_of = (*asked.split(), "--cut", "layer4", "--cut", "avgpool")
    refused = command(*asked_of, expect=1).stderr
    assert "bad.png cannot be read" in refused
    assert "use --on-error skip" in refused
    assert "skipped train/1/bad.png" in command(*asked_of, "--on-error", "skip").stderr
    (skipped,) = json.loads(command(*asked_of, "--on-error", "skip", "--json").stdout)["skipped_samples"]
    assert skipped["name"] == "train/1/bad.png"


def test_a_command_without_on_error_does_not_advise_it(command: CommandLine) -> None:
    (command.folder / "mine.py").write_text(
        "class Broken:\n"
        "    def __len__(self):\n        return 20\n"
        "    def __getitem__(self, number):\n        raise OSError('no such picture')\n"
        "def broken():\n    return Broken()\n"
    )
    said = command("explain", "--cut", "layer4", "--data", "mine.py:broken", expect=1).stderr
    assert "item 0 of 'broken" in said
    assert "cannot be read: no such picture. Mend or remove it." in said
    assert "--on-error" not in said


@pytest.mark.slow
def test_ls_tells_sets_at_one_cut_apart_and_shows_what_uses_them(command: CommandLine) -> None:
    command("extract", "--cut", "layer4", "--cut", "layer1")
    command("extract", "--cut", "layer4", "--pool", "auto", "--dtype", "float16")
    command("extract", "--cut", "layer4", "--numerics", "fast")
    command("train-head", "--cut", "layer1", "--name", "mine", "--epochs", "1")
    sets = json.loads(command("ls", "--json").stdout)
    assert [(each["cut"], each["heads"]) for each in sets if each["heads"]] == [("layer1", ["mine"])]
    header, *lines = command("ls").stdout.splitlines()
    assert header.split() == ["set", "cut", "stored", "features", "rows", "size", "heads", "written"]
    assert [line.split()[:2] for line in lines] == [[each["recipe"][:7], each["cut"]] for each in sets]
    assert [line for line in lines if " float16, pooled (auto) " in line]
    assert [line for line in lines if " float32, fast numerics " in line]


@pytest.mark.slow
def test_heads_are_compared_and_removed(command: CommandLine) -> None:
    assert "holds no heads" in command("heads").stderr
    command("extract", "--cut", "layer4")
    for name, kind in (("mine", "suffix"), ("plain", "linear"), ("nearest", "sklearn:KNeighborsClassifier")):
        trained = json.loads(command("train-head", "--name", name, "--head", kind, "--json").stdout)
    heads = {head["name"]: head for head in json.loads(command("heads", "--json").stdout)}
    assert {name: head["kind"] for name, head in heads.items()} == {
        "mine": "suffix",
        "plain": "linear",
        "nearest": "sklearn:KNeighborsClassifier",
    }
    assert {(head["cut"], head["task"], head["split"], head["samples"]) for head in heads.values()} == {
        ("layer4", "single_label", "test", 50)
    }
    assert heads["nearest"]["recipe"] == trained["recipe"]
    assert heads["nearest"]["figures"]["accuracy"] == f"{100 * trained['metrics']['accuracy']:.2f} %"
    shown = command("heads").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["head", "mine", "plain", "nearest"]
    assert "did you mean" in command("heads", "--remove", "mine", "--remove", "plan", expect=2).stderr.lower()
    assert len(json.loads(command("heads", "--json").stdout)) == 3, "a name that is not known removes none"
    told = command("heads", "--remove", "mine", "--remove", "plain")
    assert "removed 2 heads: mine, plain." in told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["head", "nearest"]
    assert not (command.folder / "features" / "heads" / "mine").exists()
    command("train-head", "--name", "mine")
    (command.folder / "features" / "heads" / "nearest" / "head.json").write_text("{}")
    told = command("heads", expect=1)
    assert "not shown: " in told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["head", "mine"]
    assert command("ls").stdout.splitlines()[1].split()[-3] == "1"
    command("heads", "--remove", "nearest", "--remove", "nearest")
    command("heads")
