"""Identities of user code and of objects: each change of meaning shows, and nothing else does."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
import operator
import os
import re
import subprocess
import sys
import textwrap
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.transforms import v2

import featcache
from featcache.errors import FingerprintError
from featcache.identity import content_id, digest, identity

ASK = "import user, json; from featcache.identity import digest; print(digest(user.subject))"


def user_digest(folder: Path, files: dict[str, str], seed: int = 0, ask: str = ASK) -> str:
    """Return the digest of `subject` in user.py, made by another process."""
    for name, source in files.items():
        (folder / name).write_text(textwrap.dedent(source), encoding="utf-8")
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


EDITS = {
    "a member of another module": (
        "import helpers\ndef subject(x): return helpers.scale(x)",
        ("def scale(x): return x * 2\nOTHER = 1", "def scale(x): return x * 3\nOTHER = 1"),
    ),
    "a constant of another module": (
        "import helpers\ndef subject(x): return x * helpers.FACTOR",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
    "a function that is imported when it runs": (
        "def subject(x):\n    from helpers import scale\n    return scale(x)",
        ("def scale(x): return x * 2", "def scale(x): return x * 3"),
    ),
    "a module that is imported when it runs": (
        "def subject(x):\n    import helpers as h\n    return h.scale(x)",
        ("def scale(x): return x * 2", "def scale(x): return x * 3"),
    ),
    "a function that bears a library function's name": (
        "import functools, numpy, helpers\n"
        "@functools.wraps(numpy.linspace)\ndef subject(*given): return helpers.scale(*given)",
        ("def scale(x): return x * 2", "def scale(x): return x * 3"),
    ),
    "a class attribute": (
        "import helpers\nclass T:\n    factor = helpers.FACTOR\n    def __call__(self, x): return x * self.factor\nsubject = T()",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
    "a base class": (
        "import helpers\nclass T(helpers.Base): pass\nsubject = T()",
        ("class Base:\n    def __call__(self, x): return x", "class Base:\n    def __call__(self, x): return -x"),
    ),
    "a method that is not the class's own": (
        "import helpers\nclass T: pass\nT.__call__ = helpers.call\nsubject = T()",
        ("def call(self, x): return x", "def call(self, x): return -x"),
    ),
    "the default of a method": (
        "import helpers\nclass T:\n    def __call__(self, x, by=helpers.FACTOR): return x * by\nsubject = T()",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
    "what decorates a method": (
        "import helpers\nclass T:\n    @helpers.twice\n    def __call__(self, x): return x\nsubject = T()",
        (
            "def twice(f):\n    def run(*given): return 2 * f(*given)\n    return run",
            "def twice(f):\n    def run(*given): return 3 * f(*given)\n    return run",
        ),
    ),
    "a property": (
        "import helpers\nclass T:\n    @property\n    def by(self): return helpers.FACTOR\n"
        "    def __call__(self, x): return x * self.by\nsubject = T()",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
    "the value of an enum's member": (
        "import helpers\nsubject = helpers.Mode.FAST",
        ("import enum\nclass Mode(enum.Enum):\n    FAST = 1", "import enum\nclass Mode(enum.Enum):\n    FAST = 2"),
    ),
    "a method of a list": (
        "import helpers\nsubject = helpers.Steps([1])",
        (
            "class Steps(list):\n    def __call__(self, x): return x",
            "class Steps(list):\n    def __call__(self, x): return -x",
        ),
    ),
    "a method of a named tuple": (
        "import helpers\nsubject = helpers.Steps(1)",
        (
            "from typing import NamedTuple\nclass Steps(NamedTuple):\n    a: int\n    def __call__(self, x): return x",
            "from typing import NamedTuple\nclass Steps(NamedTuple):\n    a: int\n    def __call__(self, x): return -x",
        ),
    ),
    "a method of a dataclass": (
        "import helpers\nsubject = helpers.Steps(1)",
        (
            "from dataclasses import dataclass\n@dataclass\nclass Steps:\n    a: int\n    def __call__(self, x): return x",
            "from dataclasses import dataclass\n@dataclass\nclass Steps:\n    a: int\n    def __call__(self, x): return -x",
        ),
    ),
    "a module that shadows the standard library": (
        "import colorsys\nsubject = colorsys.scale",
        ("", ""),
    ),
    "the function of a bound method": (
        "import types, helpers\nclass T: pass\nsubject = types.MethodType(helpers.call, T())",
        ("def call(self, x): return x", "def call(self, x): return -x"),
    ),
    "an attribute of a function": (
        "import helpers\ndef subject(x): return x * subject.by\nsubject.by = helpers.FACTOR",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
    "a value behind functools.lru_cache": (
        "import functools, helpers\n@functools.lru_cache\ndef subject(x): return x * helpers.FACTOR",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
    "a keyword of partialmethod": (
        "import functools, helpers\nclass T:\n    def run(self, x, by): return x * by\n"
        "    __call__ = functools.partialmethod(run, by=helpers.FACTOR)\nsubject = T()",
        ("FACTOR = 2", "FACTOR = 3"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", EDITS)
def test_an_edit_changes_the_identity(tmp_path: Path, what: str) -> None:
    user, (before, after) = EDITS[what]
    files = {"user.py": user, "helpers.py": before}
    edited = {"helpers.py": after}
    if "shadows" in what:
        files["colorsys.py"], edited["colorsys.py"] = "def scale(x): return x", "def scale(x): return -x"
    base = user_digest(tmp_path, files)
    assert user_digest(tmp_path, edited) != base
    assert user_digest(tmp_path, files, seed=7) == base


def test_what_a_function_does_not_use_may_change(tmp_path: Path) -> None:
    files = {"user.py": EDITS["a member of another module"][0], "helpers.py": "def scale(x): return x * 2\nOTHER = 1"}
    base = user_digest(tmp_path, files)
    assert user_digest(tmp_path, {"helpers.py": "# note\nOTHER = 2\n\n\ndef scale(x):\n    return (x *\n 2)"}) == base


@pytest.mark.slow
def test_neither_hash_seed_nor_order_in_a_set_nor_the_folder_counts(tmp_path: Path) -> None:
    source = """
    def f(x): return x
    def g(x): return f(x) + 1
    class T:
        def __init__(self): self.built = {f, g, "a", "b", ("c", 1)}
        def __call__(self, x): return x in {"p", "q", "r"}
    subject = T()
    """
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    asked = {user_digest(folder, {"user.py": source}, seed) for folder in folders for seed in (0, 1, 2)}
    by_path = (
        "from featcache.factories import call_factory; from featcache.identity import digest;"
        "print(digest(call_factory('user.py:T', 'thing')))"
    )
    asked.add(user_digest(folders[0], {}, ask=by_path))
    assert len(asked) == 1


def test_an_edit_after_loading_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edited_later.py").write_text("def f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import edited_later  # type: ignore[import-not-found]

    base = digest(edited_later.f)
    (tmp_path / "edited_later.py").write_text("# a comment\ndef f(x):\n    return x + 1\n")
    with pytest.raises(FingerprintError, match=r"cannot be found|changed after"):
        digest(edited_later.f)
    (tmp_path / "edited_later.py").write_text("def f(x):\n    return x + 2\n")
    with pytest.raises(FingerprintError, match="changed after it was loaded"):
        digest(edited_later.f)
    (tmp_path / "edited_later.py").write_text("def f(x):\n    return (x + 1)  # same\n")
    assert digest(edited_later.f) == base


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Flags(enum.IntFlag):
    ONE = 1
    TWO = 2


class Point(NamedTuple):
    x: int


@dataclasses.dataclass(frozen=True)
class Scale:
    by: float = 2.0
    steps: list[int] = dataclasses.field(default_factory=list)


class Slotted:
    __slots__ = ("by", "unset")

    def __init__(self, by: int) -> None:
        self.by = by


class Generator(nn.Module):
    """Bears the name of something that is refused."""


def plus(x: Any, y: int = 1) -> Any:
    return x + y


Pair = collections.namedtuple("Pair", "a b")

DIFFERENT = [
    (0, 1), [0, 1], {0, 1}, frozenset({0}), {"bytes": "00"}, b"\0", "00", {"tuple": [0, 1]}, {"a": 1, "b": 2}, {"b": 2, "a": 1},
    {1: 2}, {"1": 2}, 1, 1.0, True, None, "None", float("nan"), float("inf"), 1j, 1 << 60, -(1 << 60), np.float32(1), np.int64(1),
    Colour.RED, Colour.GREEN, Flags.ONE, Flags.ONE | Flags.TWO, Point(1), Point(2), Pair(1, 2), Pair(2, 1),
    Scale(), Scale(3.0), Scale(2.0, [1]), Slotted(1), Slotted(2), range(3), range(4), slice(1), slice(2), slice(plus), Ellipsis,
    torch.float32, torch.float16, torch.device("cpu"), np.dtype("f4"), np.dtype([("a", "f4")]), np.dtype([("b", "f4")]),
    Path("a"), Path("b"), re.compile("a"), re.compile("a", re.I), operator.itemgetter(1), operator.itemgetter(2),
    operator.attrgetter("a"), operator.methodcaller("a", 1), operator.methodcaller("a", 2), functools.partial(plus, y=2),
    functools.partial(plus, y=3), functools.partial(plus, 2), plus, np.add, np.multiply, np.mean, torch.relu, torch.sigmoid,
    nn.functional.relu, nn.functional.gelu, np.array([1, None]), np.array([2, None]), Image.new("L", (2, 2)),
    Image.new("L", (2, 2), 1), collections.deque([1]), collections.deque([1], 3), OrderedDict(a=1), collections.Counter("a"),
    collections.defaultdict(int), collections.defaultdict(list), types.SimpleNamespace(a=1), types.SimpleNamespace(a=2),
    Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, v2.InterpolationMode.BILINEAR, Generator(), nn.ReLU(),
    v2.Resize(8), v2.Resize(9), v2.Resize(8, antialias=False), v2.Compose([v2.Resize(8), v2.Grayscale()]),
    v2.Compose([v2.Grayscale(), v2.Resize(8)]), v2.Normalize([0.5], [0.5]), v2.Normalize([0.5], [0.25]),
    nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh())), nn.Sequential(OrderedDict(b=nn.Tanh(), a=nn.ReLU())),
    np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0]), np.array([1, 2]), torch.tensor([1, 2]),
    lambda x: x + 1,
    lambda x: x + 2,
    Scale, Slotted, Colour, Pair, Path, str.upper, "a".upper, plus.__get__(1), plus.__get__(2),
]  # fmt: skip


def test_different_things_have_different_digests_that_stay() -> None:
    digests = [digest(value) for value in DIFFERENT]
    twice = [value for value, count in collections.Counter(digests).items() if count > 1]
    assert not [DIFFERENT[digests.index(each)] for each in twice]
    assert [digest(value) for value in DIFFERENT] == digests
    for value in DIFFERENT:
        json.dumps(identity(value), allow_nan=False)


def test_equal_things_made_apart_have_equal_digests() -> None:
    def make() -> Any:
        resize = v2.Resize((4, 4), interpolation=v2.InterpolationMode.BICUBIC)
        return v2.Compose([resize, plus, functools.partial(plus, y=2), Scale(1.5, [1]), {"k": {1, 2}}.get])

    assert digest(make()) == digest(make())
    shared = Scale(1.0)
    assert digest([shared, shared]) == digest([Scale(1.0), Scale(1.0)])


def test_cycles_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert identity(ring) == [1, {"inside": 0}]


def test_torch_modules_made_while_running_keep_what_they_are_made_from() -> None:
    torch.manual_seed(0)
    base = parametrizations.weight_norm(nn.Linear(2, 2))
    assert digest(base) == digest(base)
    assert digest(base) != digest(parametrizations.spectral_norm(nn.Linear(2, 2)))
    base.parametrizations.weight.original0.data += 1
    changed = digest(base)
    base.parametrizations.weight.original0.data -= 1
    assert digest(base) != changed


class AnswersToEverything:
    def __getattr__(self, name: str) -> Any:
        return lambda: name


class Declares:
    def __init__(self, version: int) -> None:
        self.lock = iter([version])
        self.version = version

    def featcache_identity(self) -> Any:
        return {"version": self.version, "sizes": (1, 2)}


def test_a_declared_identity_wins() -> None:
    assert digest(Declares(1)) == digest(Declares(1)) != digest(Declares(2))

    def refused() -> Any:
        return next(iterator)

    iterator = iter([1])
    with pytest.raises(FingerprintError, match="→ iterator is"):
        digest(refused)
    refused.featcache_identity = "one"  # type: ignore[attr-defined]
    assert identity(refused)["featcache_identity"] == "one"
    assert "featcache_identity" not in identity(AnswersToEverything())


def test_the_presets_of_torchvision_are_readable() -> None:
    from torchvision import transforms as v1
    from torchvision.transforms._presets import ImageClassification

    made = identity(ImageClassification(crop_size=32))
    assert set(made) == {"class", "state"}
    assert made["state"]["mean"] == [0.485, 0.456, 0.406]
    composed = identity(v1.Compose([v1.Resize(40), v1.CenterCrop(32), v1.ToTensor()]))
    assert composed["class"] == "torchvision.transforms.transforms:Compose"
    assert composed["state"]["transforms"][0]["state"]["size"] == 40


def test_samples_are_told_apart_by_what_transforms_can_see(tmp_path: Path) -> None:
    turned = Image.new("RGB", (2, 2)).getexif()
    turned[0x0112] = 6
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", exif=turned)
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    assert content_id(Image.open(tmp_path / "a.png")) != content_id(Image.open(tmp_path / "b.png"))
    assert content_id(np.ma.array([1, 2], mask=[0, 1])) != content_id(np.ma.array([1, 2], mask=[1, 0]))
    assert content_id(np.longdouble(1)) != content_id(np.longdouble(2))
    with pytest.raises(FingerprintError, match="real device"):
        content_id(torch.empty(2, device="meta"))


SYNTAX = '''
def f(x, *args, key=1, **rest):
    """Doc."""
    y = [a for a in x if a] + [*args]
    s = f"{x!r:>{key}}" "tail" f"{key=}" rf"\\d{x:%H:%M}" f"a{{b}}{'c'}"
    with open(s) as one, open("b") as two:
        pass
    try:
        z = lambda q: q ** -1.5e-7
    except (ValueError, KeyError) as error:
        raise TypeError from error
    match x:
        case {"a": 1, **others} if others:
            return y[1:2, ..., ::3]
        case [1, *_] | None:
            return (yield)
    global G
    async def g():
        async for i in x:
            await i
        return {**rest}, {1, 2}, x[*args] if False else 0xFFFF_FFFF_FFFF_FFFF_FFFF
    return (n := 10), not x, b"\\x00", 1j, True, x @ y, "\\ud800"
class C(list, metaclass=type):
    "Doc."
    a: int = 1
    b: str
'''.replace("x[*args]", "x[args]")


def other_pythons() -> list[str]:
    found = Path.home().glob(".pyenv/versions/3.1[0-9]*/bin/python")
    return sorted(str(path) for path in found) + [str(path) for path in Path("/usr/bin").glob("python3.1[0-9]")]


def test_every_python_gives_a_piece_of_code_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "code.txt").write_text(SYNTAX, encoding="utf-8")
    # Other Pythons have none of the packages that featcache needs: its own packages stand in without their names.
    folder = Path(featcache.__file__).parent
    ask = (
        "import ast, pathlib, sys, types\n"
        "for name, place in (('featcache', ''), ('featcache.identity', '/identity')):\n"
        f"    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [{str(folder)!r} + place]\n"
        "from featcache.identity.syntax import tree_digest\n"
        f"print(tree_digest(ast.parse(pathlib.Path({str(tmp_path / 'code.txt')!r}).read_text(encoding='utf-8'))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    found = {
        python: subprocess.run([python, "-W", "ignore", "-c", ask], capture_output=True, text=True, env=environment)
        for python in [sys.executable, *other_pythons()]
    }
    assert {done.stdout.strip() or done.stderr for done in found.values()} == {"9b7bbec5b8143e3ccca58b849bffa013"}
