"""Settings that a command line or a script shares, and the file that gives them defaults: featcache.toml."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codecs import Stored
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..datasets import Pixels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CONFIG_NAME", "Settings", "read_config"]

CONFIG_NAME = "featcache.toml"


@dataclass(frozen=True)
class Settings(Stored):
    """What features are asked for: which backbone, data and store, and how samples are prepared and stored.

    These are the names in ``featcache.toml``.

    Attributes
    ----------
    backbone : str
        The specification of the backbone, as for ``featcache.load_backbone``.
    data : str
        The specification of the dataset, as for ``featcache.open_dataset``.
    store : str, default "features"
        The path or URL of the store.
    weights : str, optional
        The weights of the backbone, as for ``featcache.load_backbone``.
    image_size : int, optional
        The image size of the backbone's transform, in pixels. By default the usual one.
    transform : str, optional
        ``"default"`` (the backbone's own transform), ``"FILE.py:factory"`` or ``"MODULE:factory"``.
    decoding : str, default "exact"
        The way images are decoded, as for ``featcache.open_dataset``.
    exif : str, default "ignore"
        Whether images are turned, as for ``featcache.open_dataset``.
    background : str, optional
        The colour behind transparent pixels, as for ``featcache.open_dataset``.
    batch_size : int, default 64
        The samples per forward pass.
    device : str, optional
        The device to run on. By default the best one there is.
    codec : str, optional
        The compression, as for ``featcache.extract``.
    store_budget : str or int, optional
        The size that the store may grow to, as for ``featcache.extract``.
    dtype : str, default "float32"
        The stored precision, as for ``featcache.extract``.
    numerics : str, default "exact"
        The way of computing, as for ``featcache.extract``.
    pool : str, optional
        The pooling, as for ``featcache.extract``.
    views : int, default 1
        The number of random views, as for ``featcache.extract``.
    augment : str, optional
        The random augmentation, as for ``featcache.extract``.
    view_seed : int, default 0
        The seed of the random views.
    from_lossy : bool, default False
        Derive the rows from a rounded set, as for ``featcache.extract``.
    """

    backbone: str
    data: str
    store: str = "features"
    weights: str | None = None
    image_size: int | None = None
    transform: str | None = None
    decoding: str = "exact"
    exif: str = "ignore"
    background: str | None = None
    batch_size: int = 64
    device: str | None = None
    codec: str | None = None
    store_budget: str | int | None = None

    @property
    def pixels(self) -> Pixels:
        """How images are decoded; raises ``UsageError`` for a value that is not one of those an option takes."""
        from ..datasets import Pixels

        return Pixels(self.decoding, self.exif, self.background)


def read_config(path: str | Path | None = None) -> dict[str, Any]:
    """Return the content of a configuration file; of featcache.toml in the working folder if none is named.

    Raises ``ConfigError`` for a file that was named and does not exist, or is not TOML.
    """
    chosen = Path(path) if path is not None else Path(CONFIG_NAME)
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise ConfigError(f"no configuration file {chosen}. `featcache init` writes one.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{chosen} cannot be read as TOML: {error}") from error
