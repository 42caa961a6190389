"""Transforms and augmentations: which a specification names, and what they are given and leave alone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from featcache.errors import DataError, UnknownNameError, UsageError
from featcache.samples import load_augment, load_transform
from featcache.samples.augment import view_of
from featcache.samples.transforms import apply


def test_a_transform_gets_a_text_or_a_pair_and_what_it_raises_is_explained() -> None:
    assert apply(len, "text") == 4
    assert apply(len, (1, 2)) == 2
    for value, kind in (("text", "a text"), ((1, "a"), r"\(int, str\)")):
        with pytest.raises(DataError, match=f"a sample that is {kind}: no such thing"):
            apply(failing("no such thing\nand more"), value)
        with pytest.raises(DataError, match=f"a sample that is {kind}: ValueError"):
            apply(failing(""), value)
    with pytest.raises(DataError, match="it stays a text"):
        apply(str.upper, "text")
    with pytest.raises(ValueError, match="no such thing"):
        apply(failing("no such thing"), 5)
    assert apply(str, 5) == "5"


def failing(said: str) -> Any:
    def transform(value: Any) -> Any:
        raise ValueError(said)

    return transform


@pytest.mark.parametrize("error", [OSError("disk"), DataError("own")])
def test_an_error_of_the_disk_or_of_ones_own_stays_what_it_is(error: Exception) -> None:
    def transform(value: Any) -> Any:
        raise error

    with pytest.raises(type(error), match=str(error)) as raised:
        apply(transform, "text")
    assert raised.value is error


def test_an_augmentation_is_known_by_name_or_made_by_a_function(tmp_path: Path) -> None:
    assert isinstance(load_augment("flip"), v2.RandomHorizontalFlip)
    trivial = load_augment("trivial")
    assert isinstance(trivial, v2.Compose)
    assert [type(each) for each in trivial.transforms] == [v2.RandomHorizontalFlip, v2.TrivialAugmentWide]
    (tmp_path / "own.py").write_text("def make():\n    return str\n\n\ndef wrong():\n    return 5\n")
    assert load_augment(f"{tmp_path}/own.py:make") is str
    with pytest.raises(UsageError, match="returned int"):
        load_augment(f"{tmp_path}/own.py:wrong")
    with pytest.raises(UnknownNameError, match=r"'flop'.*flip"):
        load_augment("flop")


def drawn(item: int) -> tuple[int, float, float, float]:
    return item, random.random(), float(np.random.random()), float(torch.rand(1))


def test_a_view_is_a_function_of_sample_view_and_seed_alone() -> None:
    asked = [
        (b"a" * 16, 1, 0),
        (b"b" * 16, 1, 0),
        (b"a" * 16, 2, 0),
        (b"a" * 16, 1, 1),
        (b"a" * 16, 11, 0),
        (b"a" * 16, 1, 10),
    ]
    made = [view_of(5, drawn, *each) for each in asked]
    for generator in range(1, 4):
        assert len({each[generator] for each in made}) == len(asked)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert [view_of(5, drawn, *each) for each in asked] == made
    # Rows of random views are stored: what a seed draws must never change.
    assert made[0] == (5, 0.7153498810527044, 0.5643822682591583, 0.11938750743865967)


def test_a_view_leaves_the_generators_as_they_were_also_after_an_error() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn(0)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    view_of(5, drawn, b"a" * 16, 1, 0)
    with pytest.raises(ValueError, match="no such thing"):
        view_of(5, failing("no such thing"), b"a" * 16, 1, 0)
    assert drawn(0) == expected


def test_a_transform_is_the_backbones_own_or_made_by_a_function(tmp_path: Path) -> None:
    own: Any = SimpleNamespace(spec="own", make_transform=lambda size: ("own", size))
    none: Any = SimpleNamespace(spec="none", make_transform=None)
    for spec in (None, "default"):
        assert load_transform(spec, 40, own) == ("own", 40)
        assert load_transform(spec, None, own) == ("own", None)
        assert load_transform(spec, None, none) is None
        with pytest.raises(UsageError, match="none knows no transform for --image-size 40"):
            load_transform(spec, 40, none)
    (tmp_path / "t.py").write_text(
        "def sized(image_size=5):\n    return lambda value: image_size\n\n\n"
        "def plain():\n    return str\n\n\ndef wrong():\n    return 5\n"
    )
    for size, expected in ((None, 5), (40, 40)):
        made: Any = load_transform(f"{tmp_path}/t.py:sized", size, own)
        assert made(None) == expected
    assert load_transform(f"{tmp_path}/t.py:plain", None, none) is str
    with pytest.raises(UsageError, match="takes no image_size, so --image-size 40"):
        load_transform(f"{tmp_path}/t.py:plain", 40, own)
    with pytest.raises(UsageError, match="returned int"):
        load_transform(f"{tmp_path}/t.py:wrong", None, own)
    with pytest.raises(UsageError, match="'defualt' is not a transform"):
        load_transform("defualt", None, own)
