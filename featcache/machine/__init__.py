"""What a program runs on: devices, cores, memory, random generators and clocks.

It measures and sets what belongs to the machine, and puts back what it set; only ``keep_freed_memory`` is for the life of a
process. It knows nothing of samples, features or stores."""

import lazy_loader

# On first use, from the names in __init__.pyi: some of these files load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
