"""How values are written down: readable, JSON-able, and each kind in a way of its own."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import json
import logging
import math
import operator
import re
import types
import typing
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from featcache.errors import FingerprintError
from featcache.identity import content_id, digest, identity, tensor_digest
from featcache.identity.objects import hides_state, module_state, object_state


class Level(enum.IntEnum):
    LOW = 1


class Named(str):
    pass


class Empty:
    pass


class Holder:
    def __init__(self, **state: Any) -> None:
        vars(self).update(state)


def double(x: Any) -> Any:
    return x + x


EMPTY, HOLDER = identity(Empty()), identity(Holder())
CODE = identity(double)
LONG = bytes(65)

WRITTEN: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    ("text", "text"),
    (5, 5),
    ((1 << 53) - 1, (1 << 53) - 1),
    (1 << 53, {"int": "0x20000000000000"}),
    (-(1 << 53), {"int": "-0x20000000000000"}),
    (1.5, 1.5),
    (float("-inf"), {"float": "-inf"}),
    (1 + 2j, {"complex": "(1+2j)"}),
    (b"\0\1", {"bytes": "0001"}),
    (bytearray(b"\0\1"), {"bytes": "0001"}),
    (bytes(64), {"bytes": "00" * 64}),
    (LONG, {"bytes": hashlib.sha256(LONG).hexdigest()}),
    (PurePosixPath("a/b"), {"path": "a/b"}),
    (PureWindowsPath("a\\b"), {"path": "a/b"}),
    (np.float32(1.5), {"numpy": "<f4", "value": "1.5"}),
    (np.dtype("f4"), {"numpy_dtype": "<f4"}),
    (np.dtype([("a", "f4")]), {"numpy_dtype": "[('a', '<f4')]"}),
    (range(1, 5, 2), {"range": [1, 5, 2]}),
    (torch.float16, {"dtype": "torch.float16"}),
    (torch.Size([1, 2]), {"Size": "torch.Size([1, 2])"}),
    (torch.channels_last, {"memory_format": "torch.channels_last"}),
    (torch.ones(2, 1), {"tensor": tensor_digest(torch.ones(2, 1)), "shape": [2, 1]}),
    (np.ones(2), {"tensor": tensor_digest(np.ones(2)), "shape": [2]}),
    (logging.getLogger("a.b"), {"logger": "a.b"}),
    (list[int], {"typing": "list[int]"}),
    (int | None, {"typing": "int | None"}),
    (typing.Any, {"typing": "typing.Any"}),
    (typing.List[int], {"typing": "typing.List[int]"}),  # noqa: UP006
    (Ellipsis, {"singleton": "Ellipsis"}),
    (NotImplemented, {"singleton": "NotImplemented"}),
    ([1, [2]], [1, [2]]),
    ((1, "a"), {"tuple": [1, "a"]}),
    ({"a": 1, "b": 2}, {"a": 1, "b": 2}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    ({"b": 1, "a": 2}, {"dict": [["b", 1], ["a", 2]]}),
    ({1: 2}, {"dict": [[1, 2]]}),
    ({"tuple": 2}, {"dict": [["tuple", 2]]}),
    ({2, 1}, {"set": [1, 2]}),
    (frozenset({"b", "a"}), {"set": ["a", "b"]}),
    (slice(1, None, 2), {"slice": [1, None, 2]}),
    (np.array([[1, None]], dtype=object), {"items": [1, None], "shape": [1, 2]}),
    (len, {"code": "builtins:len"}),
    (math.sin, {"code": "math:sin"}),
    (np.add, {"code": "numpy:add"}),
    (np.mean, {"code": "numpy:mean"}),
    (json.dumps, {"code": "json:dumps"}),
    (json, {"module": "json"}),
    (dict, {"code": "builtins:dict"}),
    (str.upper, {"code": "builtins:str.upper"}),
    ("a".upper, {"method": "upper", "of": "a"}),
    (dict.fromkeys, {"code": "builtins:dict.fromkeys"}),
    (torch.relu, {"code": "torch:_VariableFunctionsClass.relu"}),
    (functools.partial(len, 1, b=2, a=3), {"partial": {"code": "builtins:len"}, "arguments": [1], "keywords": {"a": 3, "b": 2}}),
    (functools.lru_cache(double), {"wrapped": CODE}),
    (types.MethodType(double, 5), {"method": CODE, "of": 5}),
    (re.compile("a", re.I), {"pattern": "a", "flags": 34}),
    (operator.itemgetter(1), {"class": "operator:itemgetter", "arguments": [{"code": "operator:itemgetter"}, {"tuple": [1]}]}),
    (datetime.date(2020, 1, 2), {"class": "datetime:date", "value": "datetime.date(2020, 1, 2)"}),
    (decimal.Decimal("1.50"), {"class": "decimal:Decimal", "value": "Decimal('1.50')"}),
    (logging.Formatter.default_msec_format, "%s,%03d"),
    (re.RegexFlag.IGNORECASE, {"enum": "re:RegexFlag.IGNORECASE"}),
    (Level.LOW, {"enum": "LOW", "value": 1, "class": identity(Level)}),
    (Named("a"), {"class": identity(Named), "value": "a"}),
    (Empty(), {"class": identity(Empty), "state": {}}),
    (Holder(b=1, a=[2]), {"class": identity(Holder), "state": {"a": [2], "b": 1}}),
    (collections.OrderedDict(b=1, a=2), {"class": "collections:OrderedDict", "items": {"dict": [["b", 1], ["a", 2]]}}),
    (
        collections.defaultdict(list, a=1),
        {"class": "collections:defaultdict", "items": {"a": 1}, "default_factory": {"code": "builtins:list"}},
    ),
    (collections.deque([1], 3), {"class": "collections:deque", "items": [1], "maxlen": 3}),
    (types.SimpleNamespace(a=1), {"class": "types:SimpleNamespace", "state": {"a": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    WRITTEN,
    ids=[f"{type(value).__name__}-{number}" for number, (value, _) in enumerate(WRITTEN)],
)
def test_a_value_is_written_down_as(value: Any, expected: Any) -> None:
    found = identity(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_function_is_written_down_with_its_tree_and_what_it_uses() -> None:
    by = 5

    def scaled(x: int, *, base: int = 2) -> int:
        return x * by + base

    found = identity(scaled)
    assert set(found) == {"code", "tree", "uses"}
    assert (found["code"], len(found["tree"])) == ("scaled", 32)
    assert found["uses"] == {"by": 5, "default arguments": [[], [{"tuple": ["base", 2]}]]}


def test_code_that_occurs_twice_is_written_down_once() -> None:
    assert identity([double, double]) == [CODE, {"seen": 0}]
    assert identity([Empty(), Empty()])[1] == {"class": {"seen": 0}, "state": {}}


def test_cycles_of_objects_end_where_they_began() -> None:
    holder = Holder()
    holder.itself = holder
    assert identity(holder)["state"] == {"itself": {"inside": 0}}
    assert identity([holder])[0]["state"] == {"itself": {"inside": 1}}
    same = [1]
    assert identity([same, same]) == [[1], [1]]


def test_what_is_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(FingerprintError, match="a list is nested too deeply"):
        identity(value)


class Declares:
    def __init__(self, given: Any) -> None:
        self.featcache_identity = given


def test_a_declared_identity_is_taken_as_json_or_written_down() -> None:
    assert identity(Declares({"b": (1, 2)})) == {"class": "Declares", "featcache_identity": {"b": [1, 2]}}
    assert identity(Declares(lambda: 5)) == {"class": "Declares", "featcache_identity": 5}
    assert identity(Declares(b"\0")) == {"class": "Declares", "featcache_identity": {"bytes": "00"}}
    assert identity(Declares(float("nan")))["featcache_identity"] == {"float": "nan"}
    with pytest.raises(FingerprintError, match=r"it\.featcache_identity is builtins:list_iterator"):
        identity(Declares(iter([])))


def test_the_way_to_what_is_refused_is_named() -> None:
    with pytest.raises(FingerprintError, match=r"^it\.part\['k'\]\[1\] is builtins:list_iterator, which has no"):
        identity(Holder(part={"k": [0, iter([])]}))
    with pytest.raises(FingerprintError, match=r"^it\.func\.b is "):
        identity(
            functools.partial(functools.partial(len, b=iter([])).func, b=iter([])) and Holder(func=Holder(b=iter([])))
        )
    with pytest.raises(FingerprintError, match=r"^it\.a is "):
        identity(functools.partial(len, a=iter([])))


class Slotted:
    __slots__ = ("a", "b")


class Below(Slotted):
    def __init__(self) -> None:
        self.a, self.c = 1, 2


class Caches:
    def __init__(self) -> None:
        self.a = 1

    @functools.cached_property
    def long(self) -> int:
        return self.a


@dataclasses.dataclass(slots=True)
class Data:
    a: int = 1


def test_the_state_of_an_object_is_its_dict_and_its_slots_without_what_it_caches() -> None:
    assert object_state(Below()) == {"a": 1, "c": 2}
    assert object_state(Slotted()) == {}
    assert object_state(Data()) == {"a": 1}
    caches = Caches()
    before = digest(caches)
    assert caches.long == 1
    assert object_state(caches) == {"a": 1}
    assert digest(caches) == before


def test_a_class_hides_state_where_its_objects_are_larger_than_what_python_shows() -> None:
    for kind in (object, Empty, Slotted, Below, Data, nn.Module, Exception.__class__.__class__):
        assert hides_state(kind) == (kind is type)
    for kind in (type(iter([])), int, list, type(re.compile("a")), np.random.Generator, bytes, tuple):
        assert hides_state(kind)


def test_the_state_of_a_module_is_what_was_set_its_parameters_buffers_and_children_in_order() -> None:
    layer = nn.BatchNorm1d(2)
    layer.note, layer.inner = 5, nn.Linear(2, 2)
    state, children = module_state(layer)
    assert {"note": 5, "training": True, "eps": 1e-5, "weight": layer.weight}.items() <= state.items()
    assert state["running_mean"] is layer.running_mean
    assert children == [("inner", layer.inner)]
    assert not {"_parameters", "_buffers", "_modules", "_forward_hooks", "_backward_hooks"} & set(state)


def test_transforms_of_torchvision_are_the_same_in_both_modes() -> None:
    resize = v2.Resize(4)
    before = digest(resize)
    assert digest(resize.eval()) == before
    assert "training" not in identity(resize)["state"]


def test_a_module_is_written_down_with_its_children() -> None:
    made = identity(nn.Sequential(nn.Tanh(), nn.ReLU()))
    assert made["class"] == "torch.nn.modules.container:Sequential"
    assert made["state"] == {"training": True}
    assert [(name, each["class"]) for name, each in made["modules"]] == [
        ("0", "torch.nn.modules.activation:Tanh"),
        ("1", "torch.nn.modules.activation:ReLU"),
    ]
    assert "modules" not in made["modules"][0][1]


def test_the_content_of_samples_is_told_apart_by_kind_and_length() -> None:
    different = [None, True, False, 0, 1, "1", b"1", 1.0, "", b"", [], {}, [[]], [1, 2], [[1], 2], {"a": 1}, {"a": [1]}, {1: "a"},
                 {"1": "a"}, np.float64(2), np.array(2.0), np.array([2.0]), np.array([2], np.int64), np.array("a"), ["a", "b"],
                 ["ab"], ["", "ab"], np.datetime64("2020")]  # fmt: skip
    assert len({content_id(value) for value in different}) == len(different)
    equal = [(1, np.int64(1)), (2.5, np.float64(2.5)), ((1, 2), [1, 2]), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
    equal += [(b"a", bytearray(b"a")), (True, np.bool_(True)), (0.5, np.float16(0.5))]
    for one, other in equal:
        assert content_id(one) == content_id(other)
    for value in (object(), {1, 2}, np.array([None]), iter([]), np.array([object()])):
        with pytest.raises(FingerprintError, match="content featcache cannot hash"):
            content_id(value)
