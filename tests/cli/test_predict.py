"""What ``predict`` takes besides files, and how quiet a command can be."""

from __future__ import annotations

import csv
import io

import pytest

from ..conftest import CommandLine

NETWORK = """
import torch

class Letters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.EmbeddingBag(128, 4)
        self.out = torch.nn.Linear(4, 2)
    def forward(self, codes):
        return self.out(self.embed(codes))

def letters():
    torch.manual_seed(0)
    return Letters().eval()

def coded():
    return lambda text: torch.tensor([min(ord(letter), 127) for letter in text[:8].ljust(8)])
"""
TEXTS = ["aaaa", "aaab", "zzzz", "zzyz"] * 8


@pytest.fixture
def texts(featcache_command: CommandLine) -> CommandLine:
    folder = featcache_command.folder
    (folder / "net.py").write_text(NETWORK)
    rows = "".join(f"{text},{text[0]}\n" for text in TEXTS)
    (folder / "train.csv").write_text("text,label\n" + rows)
    (folder / "featcache.toml").write_text(
        'backbone = "net.py:letters"\ntransform = "net.py:coded"\ndata = "csv:train.csv"\ncut = "embed"\n'
    )
    featcache_command("extract")
    featcache_command("train-head", "--head", "linear")
    return featcache_command


@pytest.mark.slow
def test_texts_of_the_command_line_and_of_a_table_are_predicted_for(texts: CommandLine) -> None:
    (texts.folder / "new.csv").write_text("text,label\naaaa,unknown\nzzzz,unknown\n")
    (texts.folder / "one.txt").write_text("aaaa")
    for given, names in (
        (["--text", "aaaa", "--text", "zzzz"], ["aaaa", "zzzz"]),
        (["new.csv"], ["line 2", "line 3"]),
        (["csv:new.csv?target=none"], ["line 2", "line 3"]),
    ):
        rows = list(csv.DictReader(io.StringIO(texts("predict", *given).stdout)))
        assert [(row["name"], row["label"]) for row in rows] == list(zip(names, "az", strict=True))
    for given, words in (
        (["--text", "aaaa", "one.txt"], "--text does not go with files"),
        (["one.txt", "new.csv"], "new.csv is a whole set of data"),
        ([], "or use --text"),
    ):
        assert words in texts("predict", *given, expect=2).stderr


@pytest.mark.slow
def test_a_quiet_command_writes_its_results_and_what_is_wrong_and_nothing_else(texts: CommandLine) -> None:
    assert texts("extract", "--dtype", "float16", "-q").stderr == ""
    trained = texts("train-head", "--head", "linear", "--quiet")
    assert trained.stderr == ""
    assert trained.stdout.startswith("validation: accuracy")
    refused = texts("extract", "-q", "--cut", "nowhere", expect=2)
    assert refused.stderr.startswith("error: ")
