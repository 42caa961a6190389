"""The ``featcache`` command: finds its subcommands lazily, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from ..errors import ConfigError, FeatCacheError, UnknownNameError, near_names
from ..machine import keep_freed_memory
from ..project import Settings
from .help import write_commands
from .logs import log_plainly
from .output import print_problem

__all__ = ["cli", "main"]

COMMANDS = {
    "init": "init",
    "extract": "extract",
    "train-head": "train_head",
    "predict": "predict",
    "export": "export",
    "heads": "heads",
    "cuts": "cuts",
    "plan": "plan",
    "probe": "probe",
    "sweep": "sweep",
    "report": "report",
    "status": "status",
    "explain": "status",
    "ls": "store",
    "verify": "store",
    "gc": "gc",
    "pin": "gc",
    "unpin": "gc",
}
ADVICE = ("plan", "probe", "sweep")


class _LazyGroup(click.Group):
    """Imports the file of a command when the command, or its help, is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one uses them."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by the step in which they are used."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        write_commands([(name, command) for name, command in found if command is not None], formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name, None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of an argument list; an unknown one names what is near."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UnknownNameError(
                f"no command {args[0]!r}.{near_names(args[0], COMMANDS)} Commands: {', '.join(COMMANDS)}."
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="featcache", prog_name="featcache")
def cli() -> None:
    """Run the frozen layers of a network once, train the rest from the cache.

    \b
    featcache extract --cut layer4     compute the features that are missing
    featcache train-head --cut layer4  train what comes after the cut from them

    Defaults for every option come from featcache.toml in the working folder.
    Exit codes: 0 done, 1 failed, 2 usage, 3 stale or incomplete.
    """


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that what was computed is committed on the way out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    warnings.showwarning = _told
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a letter does not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    keep_freed_memory()
    sys.exit(run(arguments))


def _told(message: Warning | str, *_: Any, **__: Any) -> None:
    print_problem(f"warning: {' '.join(str(message).split())}")


def run(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of a command line after having run it."""
    try:
        with _termination():
            result = cli.main(args=arguments, prog_name="featcache", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print_problem(error.format_message())
        return 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context else "featcache"
        print_problem(f"error: {' '.join(error.format_message().split())} See `{name} --help`.")
        return error.exit_code
    except FeatCacheError as error:
        print_problem(f"error: {' '.join(str(error).split())}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print_problem("interrupted: everything computed so far is saved, and the next extract goes on from there.")
        return 130
    except _Terminated:
        print_problem("terminated: everything computed so far is saved, and the next extract goes on from there.")
        return 143
    except BrokenPipeError:
        return 1
    finally:
        log_plainly()


@contextmanager
def _termination() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def known_options(command: click.Command) -> list[str]:
    """Return the names under which a command's options stand in featcache.toml."""
    return [
        str(parameter.name)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name not in ("help", "config", "as_json", "quiet")
    ]


def defaults_from(config: dict[str, Any], command: click.Command, name: str) -> dict[str, Any]:
    """Return a command's defaults from a configuration: shared keys first, then those of its own table.

    Raises ``ConfigError`` for a key that no option bears.
    """
    shared = {key: value for key, value in config.items() if not isinstance(value, dict)}
    own = config.get(name, {})
    known = known_options(command)
    for key in own:
        if key.replace("-", "_") not in known:
            raise ConfigError(
                f"featcache.toml: [{name}] has no option {key!r}.{near_names(key, known)} Known: {', '.join(known)}."
            )
    shared_names = [*Settings.__dataclass_fields__, "cut"]
    for key in shared:
        if key.replace("-", "_") not in shared_names:
            raise ConfigError(
                f"featcache.toml has no key {key!r} at its top.{near_names(key, shared_names)} "
                f"Known: {', '.join(shared_names)}, and a table for each command."
            )
    for key, value in config.items():
        if isinstance(value, dict) and key not in COMMANDS:
            raise ConfigError(
                f"featcache.toml: [{key}] is not a command.{near_names(key, COMMANDS)} Commands: {', '.join(COMMANDS)}."
            )
    if name in ADVICE:  # compares cuts, whichever one is used meanwhile; those of its own table are meant
        shared.pop("cut", None)
    merged = {key.replace("-", "_"): value for key, value in {**shared, **own}.items()}
    several = {str(parameter.name): parameter.multiple for parameter in command.params if parameter.name in known}
    found = {}
    for key in several.keys() & merged.keys():
        value = merged[key]
        if several[key]:
            found[key] = value if isinstance(value, list) else [value]
        elif not isinstance(value, list):
            found[key] = value
        elif len(value) == 1:
            found[key] = value[0]
        elif key != "cut":  # of several, a command that takes one cut takes the one extracted last
            raise ConfigError(f"featcache.toml: {key} takes one value for `featcache {name}`, not {value}.")
    return found
