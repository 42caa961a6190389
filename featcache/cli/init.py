"""``featcache init``: write a featcache.toml to start from."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UsageError, printable
from ..project import CONFIG_NAME
from .output import print_line, write_text

TEMPLATE = """\
# Defaults for every option of featcache; flags on the command line override them.
backbone = "{backbone}"
data = "{data}"
store = "features"
{cut}
# weights = "DEFAULT"        # a weights name, or a .safetensors or .pt file
# image-size = 224
# transform = "transforms.py:make"
# batch-size = 64
# device = "auto"            # cpu, cuda, cuda:1, mps
# dtype = "float32"          # or float16: half the bytes; also bfloat16, float8_e4m3, float8_e5m2, int8, int4
# numerics = "exact"         # or fast, or bf16
# codec = "zstd"             # compress without loss (extra: compress)
# store-budget = "50 GB"     # extract stops before the store grows beyond it

[train-head]
# epochs = 20
# learning-rate = 1e-3
"""


@click.command("init")
@click.option("--backbone", default="torchvision:resnet18", show_default=True, metavar="SPEC")
@click.option("--data", default="folder:data", show_default=True, metavar="SPEC")
@click.option("--cut", metavar="MODULE", help="The cut to write to the file.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init_command(backbone: str, data: str, cut: str | None, force: bool) -> None:
    """Write a featcache.toml with defaults to the working folder.

    \b
    featcache init --backbone torchvision:resnet50 --data folder:photos
    featcache init --cut layer4 --force
    """
    path = Path(CONFIG_NAME)
    if path.exists() and not force:
        raise UsageError(f"{CONFIG_NAME} exists already: edit it, or replace it with --force.")
    line = f'cut = ["{cut}"]' if cut else '# cut = ["layer4"]            # `featcache cuts` lists the candidates'
    text = TEMPLATE.format(backbone=backbone, data=data, cut=line)
    if text != printable(text):
        raise UsageError(f"{CONFIG_NAME} is text in UTF-8, and {data!r} is not: rename it, or use --data instead.")
    write_text(CONFIG_NAME, text)
    print_line(f"wrote {CONFIG_NAME}: check backbone and data in it, then run `featcache cuts`.")
