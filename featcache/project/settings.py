"""Settings that a command line or a script shares, and the file that gives them defaults: featcache.toml."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..codecs import Stored
from ..errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CONFIG_NAME", "Settings", "read_config"]

CONFIG_NAME = "featcache.toml"


@dataclass(frozen=True, kw_only=True)
class Settings(Stored):
    """What features are asked for: which backbone, data and store, and how samples are prepared and stored."""

    backbone: str
    data: str
    store: str = "features"
    weights: str | None = None
    image_size: int | None = None
    transform: str | None = None
    batch_size: int = 64
    device: str | None = None
    codec: str | None = None
    store_budget: str | int | None = None


def read_config(path: str | Path | None = None) -> dict[str, Any]:
    """Return the content of a configuration file; of featcache.toml in the working folder if none is named.

    Raises :class:`ConfigError` for a file that was named and does not exist, or is not TOML.
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
