"""A ``featcache.toml`` becomes backbone, data, recipe, features and heads; what did not change is not loaded again.

It is what the command line works on. It never prints and never parses options."""

import lazy_loader

# On first use, from the names in __init__.pyi: some of these files load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
