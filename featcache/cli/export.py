"""``featcache export``: a trained network, or cached features, in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import command, project_options, the_project
from .output import count, print_json, print_line, print_notes, size

if TYPE_CHECKING:
    from ..export import ExportReport


@command("export")
@click.argument("head", required=False, metavar="[HEAD]")
@click.option("--to", required=True, type=click.Path(), metavar="FILE", help="The file to write.")
@click.option(
    "--format",
    "kind",
    help="state_dict, torch_export, onnx, npy (.npy or .npz), parquet, hdf5.  [default: by FILE's suffix]",
)
@click.option("--cut", metavar="MODULE", help="Export the features at this cut.  [default: the one extracted last]")
@project_options
def export_command(as_json: bool, head: str | None, to: str, kind: str | None, cut: str | None, **options: Any) -> None:
    """Write a trained network, or cached features, to a file.

    \b
    .safetensors, .pt  the whole state_dict, for the original model and strict=True
    .pt2, .onnx        the whole network as a torch.export program or ONNX, checked on real input
    .npy, .npz, .parquet, .h5  the features at a cut

    HEAD is the name of a head in the store, or its folder. The default is the head trained last.

    \b
    featcache export --to model.onnx                        the head trained last, with its backbone
    featcache export --to features.parquet --cut layer4     the cached features
    """
    path = Path(to)
    from ..export import FEATURE_FORMATS, find_format

    chosen = find_format(path, kind)
    if chosen in FEATURE_FORMATS:
        if head is not None:
            raise UsageError(
                f"{chosen} holds features, and a head is not a feature: leave {head!r} out, or use --format."
            )
        report = _export_features(path, chosen, cut, options)
    else:
        report = _export_head(path, chosen, head, options["store"])
    if as_json:
        print_json(report)
        return
    rows = "" if report.rows is None else f", {count(report.rows, 'sample')}"
    checked = (
        "" if report.difference is None else f", differs from the network by {report.difference:.1e} on real input"
    )
    print_line(f"wrote {report.path}: {report.format}, {size(report.size_bytes)}{rows}{checked}")
    print_notes(report.notes)


def _export_head(path: Path, kind: str, head: str | None, store: str) -> ExportReport:
    from ..project import load_saved_head

    trained, _, project = load_saved_head(store, head)
    from ..export import export_head

    return export_head(trained, path, kind, model=project.backbone.model)


def _export_features(path: Path, kind: str, cut: str | None, options: dict[str, Any]) -> ExportReport:
    project = the_project(options)
    chosen = cut or project.last_cut()
    if chosen is None:
        raise UsageError("no cut was given and none was extracted last: use --cut layer4.")
    features = project.features(chosen)
    from ..export import export_features

    return export_features(features, path, kind)
