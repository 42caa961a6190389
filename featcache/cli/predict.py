"""``featcache predict``: the whole network on new inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError, printable
from .options import command, on_error_option, store_option
from .output import print_line, print_notes, progress_bar, write_text

if TYPE_CHECKING:
    from ..heads import Predictions
    from ..project import Settings

TABLES = (".csv", ".tsv")


@command("predict")
@click.argument("inputs", nargs=-1, type=click.Path(), metavar="FILE|FOLDER|SPEC...")
@click.option("--text", "texts", multiple=True, help="A text to predict for; repeat the option for several.")
@store_option
@click.option("--head", metavar="NAME|FOLDER", help="The head to use.  [default: the one trained last]")
@click.option("--format", "kind", type=click.Choice(["csv", "json", "npz"]), default="csv", show_default=True)
@click.option("--out", type=click.Path(), help="Write to this file.  [default: stdout]")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, mps or auto.  [default: the best available]")
@on_error_option
def predict_command(
    as_json: bool,
    inputs: tuple[str, ...],
    texts: tuple[str, ...],
    store: str,
    head: str | None,
    kind: str,
    out: str | None,
    **options: Any,
) -> None:
    """Run a whole trained network on images, sounds or texts.

    Writes class names and probabilities as CSV or JSON. Takes images, sounds (wav, flac) and texts (txt). Searches
    folders for images and sounds, and counts what it leaves out. --json is the same as --format json. Several labels are
    written as a|b, and each value has its own column. For dense targets, the columns are shares of the pixels, and
    --format npz --out FILE writes the masks. A table (csv, tsv) of files or texts stands alone, or a specification of
    data, as for --data of extract.

    \b
    featcache predict new-photos --out predictions.csv
    featcache predict photo.jpg --head mine --format json
    featcache predict --text "what a film" --text "never again"
    featcache predict 'csv:reviews.csv?text=body&target=none'
    """
    if not inputs and not texts:
        raise UsageError("no input was given: name images or other files, or folders of them, or use --text.")
    if inputs and texts:
        raise UsageError("--text does not go with files: predict for one or the other.")
    if kind == "npz" and (out is None or as_json):
        raise UsageError("--format npz holds arrays and goes to a file: add --out FILE.npz.")
    from ..project import load_saved_head

    trained, transform, project = load_saved_head(store, head)
    given = _Texts(texts) if texts else _opened(inputs, project.settings)
    config = {key: options[key] for key in ("batch_size", "device", "on_error")}
    with progress_bar() as progress:
        predictions = trained.predict(given, transform=transform, progress=progress, **config)
    print_notes(getattr(given, "notes", ()))
    if kind == "npz":
        _write_arrays(Path(str(out)), predictions)
        _told(str(out), predictions)
        return
    text = predictions.to_json() + "\n" if as_json or kind == "json" else predictions.to_csv()
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
    _told(out, predictions)


class _Texts(tuple[str, ...]):
    """Texts, each of which is its own name."""

    @property
    def names(self) -> tuple[str, ...]:
        return self


def _opened(inputs: tuple[str, ...], settings: Settings) -> Any:
    """Return files as a dataset, or the one table or specification that is given."""
    from ..datasets import ImageFiles, dataset_sources, open_dataset

    for given in inputs:
        kind, colon, _ = given.partition(":")
        if Path(given).suffix.lower() in TABLES and Path(given).is_file():
            spec = f"csv:{given}?target=none"
        elif colon and kind in dataset_sources and not Path(given).exists():
            spec = given
        else:
            continue
        if len(inputs) > 1:
            raise UsageError(f"{given} is a whole set of data: predict for it without other inputs.")
        return open_dataset(spec, decoding=settings.decoding, exif=settings.exif, background=settings.background)
    return ImageFiles(list(inputs), settings.pixels)


def _told(out: str | None, predictions: Predictions) -> None:
    if out is not None:
        print_line(f"wrote {out}: {len(predictions.names)} predictions")
    for bad in predictions.skipped:
        print_line(f"skipped {bad.name}: {bad.reason}")


def _write_arrays(path: Path, predictions: Predictions) -> None:
    import numpy as np

    from ..storages import whole_file

    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            names=np.array([printable(name) for name in predictions.names]),
            classes=np.array([printable(name) for name in predictions.classes]),
            values=predictions.values,
            probabilities=predictions.probabilities,
        )
