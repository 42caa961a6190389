"""What is stored of each sample: the options that say so, each with its default, its check and its help, in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, TypeVar

from ..errors import UsageError, near_names

__all__ = ["NUMERICS", "POOLS", "Stored", "StoredOptions", "takes_stored"]

NUMERICS = ("exact", "fast", "bf16")
POOLS = ("auto", "channels_first", "channels_last", "first", "flatten")

Function = TypeVar("Function", bound=Callable[..., Any])


def _said(text: str, metavar: str | None = None, least: int | None = None) -> dict[str, Any]:
    """Return what the command line says of an option, and the least value that it takes."""
    return {"help": text, "metavar": metavar, "least": least}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is stored of each sample.

    ``extract``, ``plan``, ``probe``, ``sweep``, a project's settings and the command line take these options from here. To
    add one, add its field here and to ``StoredOptions``, and use it where the value is computed.

    Parameters
    ----------
    dtype : str, default "float32"
        The stored precision, a name of ``featcache.codecs.codecs``.
    numerics : {"exact", "fast", "bf16"}, default "exact"
        How the prefix is computed: as the model does, the same within rounding, or under autocast to bfloat16.
    pool : str, optional
        How one vector is made of a map or of tokens before it is stored. By default all values are stored.
    views : int, default 1
        The number of random views of each sample beside the plain one, where there is an augmentation.
    augment : callable or str, optional
        The random augmentation of the views, or its specification.
    view_seed : int, default 0
        The seed of the random views.
    from_lossy : bool, default False
        Whether to derive from the rounded set of a shallower cut, which makes another recipe.

    Raises
    ------
    UsageError
        If a value is not one of those that the option takes.
    """

    dtype: str = field(
        default="float32",
        metadata=_said("Stored precision: float32, float16, bfloat16, float8_e4m3, float8_e5m2, int8 or int4."),
    )
    numerics: str = field(
        default="exact",
        metadata=_said("exact, fast (channels last, BatchNorm folded: within rounding) or bf16 (autocast)."),
    )
    pool: str | None = field(
        default=None,
        metadata=_said(
            "Store one vector per sample: auto, first, flatten, channels_first or channels_last.  [default: all values]",
            metavar="KIND",
        ),
    )
    views: int = field(
        default=1, metadata=_said("Random views of each sample beside the plain one, with --augment.", least=1)
    )
    augment: Callable[[Any], Any] | str | None = field(
        default=None, metadata=_said("flip, trivial, FILE.py:factory or MODULE:factory.", metavar="SPEC")
    )
    view_seed: int = field(default=0, metadata=_said("Seed of the random views."))
    from_lossy: bool = field(default=False, metadata=_said("Derive from the rounded set of a shallower cut."))

    def __post_init__(self) -> None:
        from .codec import load_codec

        load_codec(self.dtype)
        if self.numerics not in NUMERICS:
            raise UsageError(
                f"unknown numerics {self.numerics!r}.{near_names(self.numerics, NUMERICS)} Known: {', '.join(NUMERICS)}."
            )
        if self.pool is not None and self.pool not in POOLS:
            raise UsageError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}.")
        if self.views < 1:
            raise UsageError(f"views must be at least 1, not {self.views}.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Stored:
        """Return what keywords ask to have stored.

        Parameters
        ----------
        options : mapping of str to Any
            Options by name.

        Returns
        -------
        Stored
            The options.

        Raises
        ------
        TypeError
            If a keyword is not the name of an option.
        UsageError
            If a value is not one of those that the option takes.
        """
        known = [each.name for each in fields(Stored)]
        for name in options:
            if name not in known:
                raise TypeError(f"unexpected keyword argument {name!r}.{near_names(name, known)}")
        return cls(**options)

    def options(self) -> dict[str, Any]:
        """Return the options by name, as the functions that take them are given them.

        Returns
        -------
        dict of str to Any
            The value of each option.
        """
        return {each.name: getattr(self, each.name) for each in fields(Stored)}


class StoredOptions(TypedDict, total=False):
    """The keywords of ``Stored``, for type checkers and editors."""

    dtype: str
    numerics: str
    pool: str | None
    views: int
    augment: Callable[[Any], Any] | str | None
    view_seed: int
    from_lossy: bool


def takes_stored(function: Function) -> Function:
    """Return the function itself; its signature, as ``help`` shows it, names the options of ``Stored`` for ``**stored``."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.name != "stored"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(each.name, keyword, default=each.default, annotation=each.type)
        for each in fields(Stored)
        if each.name not in signature.parameters
    ]
    function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return function
