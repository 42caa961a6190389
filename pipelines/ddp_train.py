"""Train what comes after a cut on several processes or GPUs, from one cache: DistributedDataParallel under torchrun.

    featcache extract --cut layer3
    torchrun --standalone --nproc-per-node 2 pipelines/ddp_train.py --cut layer3
    python pipelines/ddp_train.py --cut layer3          # the same weights, from one process

Each process gets its share of every batch, so the number of processes does not change what is learned. Normalization
layers keep the statistics that they have: they would see a part of the batch only.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

import featcache
from featcache.heads import new_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled:resnet-mini")
    parser.add_argument("--data", default="folder:data/digits")
    parser.add_argument("--store", default="features")
    parser.add_argument("--cut", default="layer3")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="Of all processes together.")
    parser.add_argument("--out", type=Path, default=Path("suffix.safetensors"))
    options = parser.parse_args()
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if world_size > 1:
        dist.init_process_group("nccl" if device != "cpu" else "gloo")

    project = featcache.Project(featcache.Settings(options.backbone, options.data, options.store))
    features = project.features(options.cut)  # they are there: a job of its own has extracted them
    train, test = features.where("train"), features.where("test")
    network = new_network(project.split(options.cut), classes=len(features.classes))
    suffix = network.suffix.to(device).eval()
    trained = DistributedDataParallel(suffix) if world_size > 1 else suffix
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.02, momentum=0.9)
    share = options.batch_size // world_size
    batches = train.loader(share, seed=0, device=device, rank=rank, world_size=world_size)
    for epoch in range(options.epochs):
        for frontier, targets in batches:
            if len(targets) < share:
                continue  # the last one, which could not be shared evenly; the next epoch has its rows elsewhere
            loss = torch.nn.functional.cross_entropy(trained(frontier), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    if rank == 0:
        with torch.no_grad():
            pairs = test.loader(256, shuffle=False, device=device, world_size=1)
            right = sum((suffix(frontier).argmax(1) == targets).sum().item() for frontier, targets in pairs)
        save_file({name: value.cpu().contiguous() for name, value in suffix.state_dict().items()}, options.out)
        print(f"test accuracy {100 * right / len(test):.1f} %, {world_size} process{'es' * (world_size > 1)}")
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
