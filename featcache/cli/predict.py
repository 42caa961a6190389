"""``featcache predict``: the whole network on new inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import DataError, DataNotFoundError, UsageError
from .options import command, store_option
from .output import progress_bar, tell


@command("predict")
@click.argument("inputs", nargs=-1, type=click.Path(), metavar="FILE|FOLDER...")
@store_option
@click.option("--head", metavar="NAME|FOLDER", help="The head to use.  [default: the one trained last]")
@click.option("--format", "kind", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--out", type=click.Path(), help="Write to this file.  [default: stdout]")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, mps or auto.  [default: the best there is]")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
def predict_command(
    as_json: bool,
    inputs: tuple[str, ...],
    store: str,
    head: str | None,
    kind: str,
    out: str | None,
    **options: Any,
) -> None:
    """Run the whole trained network on images, sounds (wav, flac) or texts (txt); class names and probabilities as CSV or JSON.

    Folders are searched for images and sounds. --json is the same as --format json.
    """
    if not inputs:
        raise UsageError("no input was given: name images or other files, or folders of them.")
    from ..project import load_saved_head

    trained, transform, _ = load_saved_head(store, head)
    from ..datasets.files import ImageFiles
    from ..heads import predict

    config = {key: options[key] for key in ("batch_size", "device", "on_error")}
    with progress_bar() as progress:
        predictions = predict(trained, ImageFiles(list(inputs)), transform=transform, progress=progress, **config)
    text = predictions.to_json() + "\n" if as_json or kind == "json" else predictions.to_csv()
    if out is None:
        click.echo(text, nl=False)
    else:
        try:
            Path(out).write_text(text, encoding="utf-8")
        except FileNotFoundError:
            raise DataNotFoundError(f"cannot write {out}: there is no such folder.") from None
        except OSError as error:
            raise DataError(f"cannot write {out}: {error.strerror}.") from error
        tell(f"wrote {out}: {len(predictions.names)} predictions")
    for bad in predictions.skipped:
        tell(f"skipped {bad.name}: {bad.reason}")
