"""A program in, a verdict out: right, refused, wrong or crashed."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch

import featcache

from .checks import CHECKS, check_left_alone, check_rows
from .pieces import DUBIOUS, MIXED, SOUND
from .programs import Program
from .reference import WrongError, chaotic, truth
from .writing import source

__all__ = ["Verdict", "check", "loaded"]

RIGHT, REFUSED, WRONG, CRASH, UNFIT, CHAOTIC = "right", "refused", "wrong", "crash", "unfit", "chaotic"
PRODUCT = str(Path(featcache.__file__).parent)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a program.

    ``unfit``: it is not what its generator takes it for, or does not run by itself. ``chaotic``: rounding alone moves what it
    gives, so that a difference proves nothing.
    """

    kind: str
    fact: str
    check: str = ""
    what: str = ""

    @property
    def failed(self) -> bool:
        return self.kind in (WRONG, CRASH, UNFIT)


def loaded(text: str, path: Path) -> ModuleType:
    """Return the module of a source text, from a real file."""
    path.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def check(program: Program, checks: Sequence[Callable[[ModuleType], None]] = CHECKS) -> Verdict:
    """Return the verdict on a program."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    kept, tempfile.tempdir = tempfile.tempdir, str(scratch)
    name = f"program_{program.seed}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            p = loaded(source(program), scratch / f"{name}.py")
            verdict = _check(p, checks)
            if verdict.fact != MIXED and verdict.kind in (WRONG, UNFIT) and _is_chaotic(p):
                return Verdict(CHAOTIC, verdict.fact, verdict.check, verdict.what)
            return verdict
    finally:
        tempfile.tempdir = kept
        sys.modules.pop(name, None)
        shutil.rmtree(scratch, ignore_errors=True)


def _check(p: ModuleType, checks: Sequence[Callable[[ModuleType], None]]) -> Verdict:
    try:
        known = truth(p)
    except Exception as error:
        return Verdict(UNFIT, p.FACT, "alone", f"{type(error).__name__}: {error}")
    if p.FACT != MIXED and known.mixed:
        return Verdict(UNFIT, p.FACT, "alone", "it is mixed")
    if known.writes and p.FACT == SOUND:
        p.FACT = DUBIOUS
    refused: Verdict | None = None
    for each in checks:
        if p.FACT == MIXED and each not in (check_rows, check_left_alone):
            continue
        try:
            with torch.random.fork_rng():
                each(p)
        except WrongError as error:
            return Verdict(WRONG, p.FACT, each.__name__, str(error))
        except featcache.FeatCacheError as error:
            refused = refused or Verdict(REFUSED, p.FACT, each.__name__, str(error))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            inside = any(frame.filename.startswith(PRODUCT) for frame in frames)
            kind = CRASH if inside else UNFIT
            where = "".join(traceback.format_tb(error.__traceback__)[-3:]) if not inside else _in_product(frames)
            return Verdict(kind, p.FACT, each.__name__, f"{type(error).__name__}: {error} {where}")
    if refused:
        return refused
    return Verdict(RIGHT, p.FACT, "", "" if p.FACT != MIXED or known.mixed else "nothing is mixed on these data")


def _is_chaotic(p: ModuleType) -> bool:
    try:
        return chaotic(p)
    except Exception:  # it does not run by itself, which is a verdict of its own
        return False


def _in_product(frames: traceback.StackSummary) -> str:
    last = [frame for frame in frames if frame.filename.startswith(PRODUCT)][-1]
    return f"({last.filename.removeprefix(PRODUCT)}:{last.lineno} in {last.name})"
