"""``train-head --head all-layers``, and what the other commands make of such a head."""

from __future__ import annotations

import json

import pytest

from ..conftest import CommandLine
from .test_splits import FILES


@pytest.fixture
def command(featcache_command: CommandLine) -> CommandLine:
    files = FILES.replace('["train"] * 24 + ["holdout"] * 8 + ["fold, 2"] * 8', '["train"] * 30 + ["test"] * 10')
    deeper = "torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)"
    files = files.replace("torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)", deeper)
    (featcache_command.folder / "mine.py").write_text(files)
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "mine.py:network"\ndata = "mine.py:rows"\ndevice = "cpu"\ncut = "1"\n'
    )
    return featcache_command


def test_a_head_on_all_layers_is_trained_listed_kept_reported_and_loaded_again(command: CommandLine) -> None:
    lacking = command("train-head", "--head", "all-layers", expect=3).stderr
    assert "featcache extract --pool auto --cut 1 --cut 3" in lacking
    command("extract", "--pool", "auto", "--cut", "1", "--cut", "3")
    trained = json.loads(command("train-head", "--head", "all-layers", "--json").stdout)
    assert trained["cut"] == "1+3"
    assert trained["rows"]["test"] == {"test": 10}
    chosen = json.loads(command("train-head", "--head", "all-layers", "--cut", "3", "--cut", "1", "--json").stdout)
    assert chosen["cut"] == "3+1"
    sets = json.loads(command("ls", "--json").stdout)
    assert [len(each["heads"]) for each in sets] == [2, 2]
    command("gc", "--yes", "--cut", "1")  # of which the configuration means the set that is not pooled
    assert len(json.loads(command("ls", "--json").stdout)) == 2
    assert "1+3" in command("heads").stdout
    command("report", "--out", "report.html")
    assert "what needs the features of the head is left out" not in (command.folder / "report.html").read_text()
    assert "all-layers" in (command.folder / "report.html").read_text()
    from featcache import load_head

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(command.folder)
        assert load_head(trained["folder"]).cuts == ["1", "3"]


def test_one_cut_for_all_layers_and_two_for_another_head_are_refused(command: CommandLine) -> None:
    command("extract", "--pool", "auto", "--cut", "1", "--cut", "3")
    assert "two cuts or more" in command("train-head", "--head", "all-layers", "--cut", "1", expect=2).stderr
    several = command("train-head", "--head", "linear", "--pool", "auto", "--cut", "1", "--cut", "3", expect=2).stderr
    assert "one --cut" in several


def test_of_several_cuts_in_the_configuration_another_head_takes_the_one_extracted_last(command: CommandLine) -> None:
    configuration = command.folder / "featcache.toml"
    configuration.write_text(configuration.read_text().replace('cut = "1"', 'cut = ["1", "3"]'))
    command("extract")
    assert json.loads(command("train-head", "--json").stdout)["cut"] == "3"
