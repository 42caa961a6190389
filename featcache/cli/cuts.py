"""``featcache cuts``: where a backbone can be cut."""

from __future__ import annotations

from typing import Any

from .options import command, project_options, the_project
from .output import print_json, print_line, print_table, size


@command("cuts")
@project_options
def cuts_command(as_json: bool, **options: Any) -> None:
    """List the modules at which the backbone can be cut.

    Lists the modules in the order in which they are computed, with the features' shape, their bytes per sample, and the
    share of the FLOPs and parameters before each cut.

    \b
    featcache cuts                                          the backbone in featcache.toml
    featcache cuts --backbone timm:resnet50.a1_in1k --data folder:photos
    """
    cuts = the_project(options).cuts()
    if as_json:
        print_json(cuts)
        return
    usable = [cut for cut in cuts if cut.refused is None]
    print_table(
        ["cut", "features", "bytes per sample", "FLOPs before", "parameters before"],
        [
            [
                cut.name,
                " + ".join(str(spec) for spec in cut.frontier),
                size(cut.size_bytes),
                f"{100 * cut.flops_share:.1f} %",
                f"{100 * cut.parameters_share:.1f} %",
            ]
            for cut in usable
        ],
    )
    for cut in cuts:
        if cut.refused is not None:
            print_line(f"not at {cut.name}: {cut.refused}")
