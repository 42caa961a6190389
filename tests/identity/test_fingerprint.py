from __future__ import annotations

import copy
import functools
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from torch import nn

from featcache.errors import FingerprintError
from featcache.identity import content_id, digest, identity, tensor_digest
from featcache.identity.values import TAGS
from featcache.samples.file_memo import FileMemo

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["a", "b", *sorted(TAGS)]), inner, max_size=3)
    ),
    max_leaves=8,
)


def exact(value: object) -> object:
    """A value in which 1, 1.0 and True differ, and a list and a tuple; a dict's order counts too."""
    if isinstance(value, dict):
        return [(key, exact(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [exact(part) for part in value]
    return type(value).__name__, repr(value)


def sample(value: object) -> object:
    """A value as samples are told apart: neither a dict's order nor list or tuple counts."""
    if isinstance(value, dict):
        return "dict", sorted((key, repr(sample(part))) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return [sample(part) for part in value]
    return type(value).__name__, repr(value)


@pytest.mark.slow
@given(plain, plain)
def test_two_values_have_one_digest_exactly_if_they_are_equal(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (exact(one) == exact(other))
    assert (content_id(one) == content_id(other)) == (sample(one) == sample(other))


def test_tensors_are_told_apart_by_dtype_shape_and_every_bit() -> None:
    base = torch.arange(12, dtype=torch.float32)
    others = [
        base.reshape(3, 4), base.double(), base.half(), base.to(torch.bfloat16), base.int(), base + 1e-7,
        torch.full((12,), float("nan")), -base,
    ]  # fmt: skip
    assert len({tensor_digest(each) for each in (base, *others)}) == len(others) + 1
    assert tensor_digest(base.reshape(3, 4).T.contiguous().T) == tensor_digest(base.reshape(3, 4))
    assert tensor_digest(torch.zeros(0, 3)) != tensor_digest(torch.zeros(3, 0))
    assert tensor_digest(torch.quantize_per_tensor(base, 0.1, 0, torch.quint8)) != tensor_digest(
        torch.quantize_per_tensor(base, 0.2, 0, torch.quint8)
    )


def test_images_are_told_apart_by_mode_size_palette_and_pixels() -> None:
    grey = Image.new("L", (2, 4), 7)
    palette = grey.convert("P")
    other = palette.copy()
    other.putpalette([9] * 768)
    ids = {content_id(each) for each in (grey, grey.convert("RGB"), Image.new("L", (4, 2), 7), palette, other)}
    assert len(ids) == 5
    assert content_id(grey) == content_id(Image.new("L", (2, 4), 7))


SOURCE = """
    import functools, math
    CONSTANT = {constant}

    def helper(x):
        return x * CONSTANT

    def transform(x, scale={default}):
        {comment}
        return helper(x) {operator} scale

    class Callable:
        factor = 2
        def __init__(self, state): self.state = state
        def __call__(self, x): return helper(x) * self.state

    def make(value):
        def inner(x): return x * value
        return inner

    doubled = functools.partial(transform, scale=3)
    instance = Callable({state})
    closure = make({closed})
    by_lambda = lambda x: x {operator} 2
"""
BASE = {
    "constant": "1.5",
    "default": "2",
    "comment": "'''A docstring.'''",
    "operator": "+",
    "state": "4",
    "closed": "5",
}


def digests(folder: Path, seed: str = "0", **changes: str) -> dict[str, str]:
    """Digests of the things in SOURCE, made by another process."""
    (folder / "user.py").write_text(textwrap.dedent(SOURCE).format(**{**BASE, **changes}))
    code = (
        "import user, json; from featcache.identity import digest;"
        "names = ['transform', 'doubled', 'instance', 'closure', 'by_lambda', 'helper'];"
        "print(json.dumps({name: digest(getattr(user, name)) for name in names}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_code_is_identified_by_what_it_means_in_every_process(tmp_path: Path) -> None:
    base = digests(tmp_path)
    assert digests(tmp_path, seed="77", comment="'''Another docstring.'''  # and a comment") == base
    everything = set(base)
    for changes, affected in (
        ({"constant": "1.25"}, {"transform", "doubled", "instance", "helper"}),
        ({"operator": "-"}, {"transform", "doubled", "by_lambda"}),
        ({"default": "7"}, {"transform", "doubled"}),
        ({"state": "9"}, {"instance"}),
        ({"closed": "9"}, {"closure"}),
    ):
        changed = digests(tmp_path, **changes)
        assert {name for name in everything if changed[name] != base[name]} == affected, changes


def test_library_callables_are_named_and_readable() -> None:
    from torchvision.models import ResNet18_Weights

    made = identity(ResNet18_Weights.DEFAULT.transforms())
    assert made["class"] == "torchvision.transforms._presets:ImageClassification"
    assert made["state"]["crop_size"] == [224]
    assert identity(np.mean) == {"code": "numpy:mean"}
    assert digest(functools.partial(np.mean, axis=0)) != digest(functools.partial(np.mean, axis=1))


def test_modules_are_identified_by_class_weights_and_settings() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    base = digest(layer)
    assert digest(copy.deepcopy(layer)) == base
    assert digest(nn.Sequential(layer[1], layer[0])) != base
    assert digest(layer.eval()) != base  # BatchNorm, for one, computes something else then
    layer.train()
    layer[0].weight.data[0, 0] += 1e-6
    assert digest(layer) != base
    layer.register_forward_hook(lambda *_: None)
    with pytest.raises(FingerprintError, match="hooks"):
        digest(layer)


def opened() -> Any:
    with Path(os.devnull).open() as file:
        return file


REFUSED = [
    iter([1]), (number for number in ()), opened(), random.Random(1), np.random.default_rng(1), np.random.RandomState(1),
    np.random.default_rng(1).normal, torch.Generator(), threading.Lock(), zlib.compressobj(), weakref.ref(nn.ReLU),
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_has_no_visible_state_is_refused_with_the_way_out(value: object) -> None:
    with pytest.raises(FingerprintError, match=r"it\['a'\]\[0\].* is .*featcache_identity"):
        digest({"a": [value]})


def test_two_lambdas_on_one_line_are_refused() -> None:
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    with pytest.raises(FingerprintError, match="several lambdas"):
        digest([one, other])


@pytest.mark.slow
def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    names = [f"{number}.bin" for number in range(20)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number]))
    memo = FileMemo()
    first = memo.ids(tmp_path, names)
    assert memo.hashed == 20
    assert len({row.tobytes() for row in first}) == 20
    soon = FileMemo.from_bytes(memo.to_bytes())
    soon.ids(tmp_path, names)
    assert soon.hashed == 20  # just written: another write within the clock's tick could not be told
    time.sleep(2.1)
    soon.ids(tmp_path, names)
    later = FileMemo.from_bytes(soon.to_bytes())
    (tmp_path / names[3]).write_bytes(b"new")
    assert np.array_equal(later.ids(tmp_path, names)[:3], first[:3])
    assert later.hashed == 1


def test_a_damaged_memo_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    memo = FileMemo()
    expected = memo.ids(tmp_path, ["a"])
    content = memo.to_bytes()
    for damaged in (b"", content[:40], content[:-1] + b"x", b"x" + content[1:]):
        again = FileMemo.from_bytes(damaged)
        assert np.array_equal(again.ids(tmp_path, ["a"]), expected)
        assert again.hashed == 1
