"""What is recorded with a shard but not keyed: where, when and by what it was made."""

from __future__ import annotations

import platform
import socket
import time
from importlib.metadata import version
from typing import Any

import torch

__all__ = ["surroundings"]


def surroundings(device: torch.device) -> dict[str, Any]:
    """Return the versions, the device, the host and the time, as JSON-able values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "featcache": version("featcache"),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "device": str(device),
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
