"""Options that several commands share, and how featcache.toml gives them defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..codecs import Stored
from ..errors import FeatCacheError, UsageError
from ..project import Settings, read_config
from .help import write_options
from .output import be_quiet

if TYPE_CHECKING:
    from ..project import Project

__all__ = [
    "command",
    "configured_cuts",
    "cut_option",
    "on_error_option",
    "project_options",
    "quantity",
    "split_options",
    "store_option",
    "stored_cuts",
    "stored_options",
    "the_project",
]

Function = TypeVar("Function", bound=Callable[..., Any])


class _Command(click.Command):
    """A command whose help has its own options first, and whose errors advise no option that it does not have."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except FeatCacheError as error:
            if all(each.name != "on_error" for each in self.params):
                error.args = (str(error).replace(", or use --on-error skip", ""),)
            raise


def _use_config(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    from .main import defaults_from

    context.default_map = defaults_from(read_config(value), context.command, context.info_name or "")


def command(name: str) -> Callable[[Function], click.Command]:
    """Return the decorator that makes a function a command with ``--json``, ``--quiet`` and ``--config``."""

    def decorate(function: Function) -> click.Command:
        decorated: Any = click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")(
            function
        )
        decorated = click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=be_quiet,
            help="Write nothing but warnings and errors to stderr: no progress, no notes.",
        )(decorated)
        decorated = click.option(
            "--config",
            type=click.Path(),
            expose_value=False,
            is_eager=True,  # before the options to which it gives defaults
            callback=_use_config,
            help="The file with the defaults.  [default: featcache.toml]",
        )(decorated)
        return click.command(name, cls=_Command)(decorated)

    return decorate


def quantity(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Return the callback of an option that takes a size or a time in words."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except UsageError as error:
            raise click.BadParameter(str(error)) from error

    return read


def store_option(function: Function) -> Function:
    """Add ``--store``."""
    return click.option("--store", default="features", show_default=True, help="Folder or URL of the store.")(function)


def split_options(function: Function) -> Function:
    """Add the options that say which splits are trained on, validated by and tested on."""
    for use, usual in (
        ("test", "test, testing, test_set"),
        ("validation", "val, valid, validation, dev, val_set"),
        ("train", "train, training, train_set"),
    ):
        function = click.option(
            f"--{use}-splits",
            multiple=True,
            metavar="NAME,...",
            callback=_split_names,
            help=f"Splits to use as {use} rows.  [default: {usual} and similar names; docs/guide.md lists them]",
        )(function)
    return function


def _split_names(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    return tuple(name for each in value for name in each.split(",")) or None


def on_error_option(function: Function) -> Function:
    """Add ``--on-error``."""
    return click.option(
        "--on-error",
        type=click.Choice(["raise", "skip"]),
        default="raise",
        show_default=True,
        help="What to do with a sample that cannot be read.",
    )(function)


def cut_option(function: Function) -> Function:
    """Add ``--cut``, which may be given several times."""
    return click.option(
        "--cut",
        multiple=True,
        metavar="MODULE",
        help="Module whose output is cached; `featcache cuts` lists the candidates.",
    )(function)


def project_options(function: Function) -> Function:
    """Add the options that say what features are asked for."""
    options = [
        click.option(
            "--backbone",
            metavar="SPEC",
            help="torchvision:NAME, timm:NAME, hf:NAME|FOLDER, bundled:NAME, FILE.py:factory, MODULE:factory.",
        ),
        click.option("--weights", metavar="NAME|FILE", help="Weights of the backbone.  [default: the pretrained ones]"),
        click.option(
            "--data",
            metavar="SPEC",
            help="folder:PATH, csv:FILE, wds:PATTERN, hf:NAME|PATH, torchvision:NAME, sklearn:digits, MODULE:factory; with "
            "options as in 'csv:train.csv?path=image&target=label'.",
        ),
        store_option,
        click.option("--image-size", type=click.IntRange(min=1), help="Side in pixels to which images are resized."),
        click.option(
            "--transform",
            metavar="SPEC",
            help="FILE.py:factory or MODULE:factory.  [default: the backbone's own]",
        ),
        click.option(
            "--decoding",
            type=click.Choice(["exact", "scaled"]),
            default="exact",
            show_default=True,
            help="Decode a JPEG at full size, or only as large as the transform can use: faster, but slightly different.",
        ),
        click.option(
            "--exif",
            type=click.Choice(["ignore", "apply"]),
            default="ignore",
            show_default=True,
            help="Whether to turn images as their EXIF orientation says.",
        ),
        click.option(
            "--background", metavar="COLOUR", help="Colour behind transparent pixels, such as white or #7f7f7f."
        ),
        click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True),
        click.option("--device", help="cpu, cuda, cuda:1, mps or auto.  [default: the best available]"),
        *(_stored_option(each) for each in fields(Stored)),
        click.option("--codec", metavar="NAME", help="Lossless compression: zstd.  [default: none]"),
        click.option(
            "--store-budget", metavar="SIZE", help="Largest size of the store, such as 50GB.  [default: the disk]"
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _stored_option(option: Field[Any]) -> Callable[[Any], Any]:
    """Return the command line's form of an option of what is stored."""
    name, default, least = f"--{option.name.replace('_', '-')}", option.default, option.metadata["least"]
    shown: dict[str, Any] = {"help": option.metadata["help"], "metavar": option.metadata["metavar"]}
    if isinstance(default, bool):
        return click.option(name, is_flag=True, default=default, **shown)
    kind = click.IntRange(min=least) if least is not None else None if default is None else type(default)
    return click.option(name, type=kind, default=default, show_default=default is not None, **shown)


def stored_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of a command's options that say what is stored."""
    return {each.name: options[each.name] for each in fields(Stored)}


def the_project(options: dict[str, Any]) -> Project:
    """Return the project that a command's options describe; raises ``UsageError`` where something is not said."""
    for name, example in (("backbone", "torchvision:resnet18"), ("data", "folder:photos")):
        if not options.get(name):
            raise UsageError(
                f"no {name} was given: use --{name} {example}, or write a featcache.toml (`featcache init`)."
            )
    from ..project import Project

    fields = Settings.__dataclass_fields__
    return Project(Settings(**{name: options[name] for name in fields if name in options}))


def stored_cuts(project: Project, cut: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cuts that were asked for, or else all that the store holds; raises ``UsageError`` for none."""
    return configured_cuts(cut or tuple(info.cut for info in project.store.sets()))


def configured_cuts(cut: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cuts that were asked for, each once; raises ``UsageError`` for none."""
    if not cut:
        raise UsageError("no cut was given: use --cut layer4; `featcache cuts` lists the candidates.")
    return tuple(dict.fromkeys(cut))
