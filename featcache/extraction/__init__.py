"""From what is asked for to what is stored: the request, the rows that are missing, the jobs that compute or derive them.

It is the only room that fills a set. It never trains, and never changes a row that is there."""

import lazy_loader

from .extract import extract as extract  # at once: else the file of that name would stand for the function

# On first use, from the names in __init__.pyi: some of these files load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
