"""How a feature is held on disk: the stored precisions, one file per kind, and the pooling that makes a vector of a map.

A codec turns arrays into arrays. It never reads or writes a file."""

import lazy_loader

# On first use, from the names in __init__.pyi: some of these files load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
