"""What ``--help`` shows: commands by step, options in groups, and examples that the commands take."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import click
import pytest

from featcache.cli.help import STEPS
from featcache.cli.main import COMMANDS, cli


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown_help(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        cli.main([*arguments, "--help"], prog_name="featcache", standalone_mode=False)
    return shown.getvalue()


def test_the_first_page_of_help_has_every_command_at_its_step() -> None:
    overview = shown_help()
    assert "_" not in overview, "the name of a function in place of a word"
    assert sorted(name for names in STEPS.values() for name in names) == sorted(COMMANDS)
    places = [overview.index(f"{title}:") for title in STEPS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_its_own_options_first_and_every_option_once(name: str) -> None:
    shown = shown_help(name)
    assert shown.startswith(f"Usage: featcache {name}")
    titles = ["Options:", "Splits:", "Data and network:", "What is stored:", "Output:"]
    places = [shown.index(title) for title in titles if title in shown]
    assert places == sorted(places)
    flags = re.findall(r"^  (?:-., )?(--[a-z-]+)", shown[places[0] :], re.M)
    known = [option.opts[-1] for option in cli.get_command(None, name).params if isinstance(option, click.Option)]
    assert sorted(flags) == sorted([*known, "--help"])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_help_are_command_lines_that_the_commands_take(name: str) -> None:
    examples = re.findall(r"^  featcache (.*)", shown_help(name).split("Options:")[0], re.M)
    assert examples
    for example in examples:
        words = shlex.split(example.partition("||")[0].partition("   ")[0])
        found = cli.get_command(None, words[0])
        context = found.make_context(words[0], words[1:], resilient_parsing=False)
        assert context.info_name == words[0]
