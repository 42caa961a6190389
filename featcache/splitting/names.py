"""What torch calls are called, and which of them tell about content."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["ESCAPES", "call_name", "is_comparison", "is_content_free", "is_metadata", "is_sized_by_content"]

# What these return says how a tensor is laid out, not what is in it.
METADATA = {
    "shape", "size", "dim", "ndim", "ndimension", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_meta", "is_mps",
    "is_sparse", "is_quantized", "is_floating_point", "is_complex", "is_contiguous", "requires_grad", "requires_grad_",
    "is_leaf", "numel", "nelement", "stride", "element_size", "itemsize", "nbytes", "storage_offset", "get_device", "type_as_",
    "__len__", "is_inference", "grad_fn", "names", "is_nested", "is_signed", "is_conj", "is_neg", "output_nr", "_version",
    "is_mkldnn", "is_xpu",
     "is_vulkan", "is_tensor", "__hash__", "is_same_size", "has_names", "grad", "_is_view", "__dir__", "__format__", "__repr__",
}  # fmt: skip
# What these return is a Python value that depends on the content.
ESCAPES = {
    "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__", "__complex__",
    "equal", "allclose", "is_nonzero", "data_ptr", "untyped_storage", "storage", "__dlpack__", "apply_", "map_", "map2_",
}  # fmt: skip
COMPARISONS = {"eq", "ne", "not_equal", "contains"}
# The size of what these return depends on the content of an argument …
SIZED_BY_CONTENT = {
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "unique_dim", "_unique", "_unique2", "bincount",
    "_pack_padded_sequence", "_pad_packed_sequence",
}  # fmt: skip
# … and of these, where a size is given as a tensor.
FACTORIES = {
    "arange", "range", "linspace", "zeros", "ones", "empty", "full", "rand", "randn", "randint", "eye", "tril_indices",
    "triu_indices",
}  # fmt: skip
SIZED_BY_ARGUMENTS = {
    "new_zeros", "new_ones", "new_empty", "new_full", "view", "reshape", "expand", "repeat", "tile", "narrow", "split", "chunk",
    "unflatten", "unfold", "tensor_split", "resize_", "repeat_interleave",
}  # fmt: skip

# What is in these does not depend on what is in their first argument.
CONTENT_FREE = {
    "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "zeros_like", "ones_like", "empty_like", "full_like",
}  # fmt: skip


def is_content_free(name: str) -> bool:
    """Return whether the content of a call's first argument does not matter, only its size, dtype and device."""
    return name.rpartition(".")[2] in CONTENT_FREE


def is_comparison(name: str) -> bool:
    """Return whether a call compares content with a number, or looks for one in it."""
    return name.rpartition(".")[2].strip("_") in COMPARISONS


def is_sized_by_content(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a call may give a result whose size depends on the content of an argument."""
    short = name.rpartition(".")[2]
    if short in SIZED_BY_CONTENT or (short in ("where", "repeat_interleave") and len(args) == 1 and not kwargs):
        return True
    if short == "one_hot":
        return bool((args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1)
    if short in FACTORIES or short in SIZED_BY_ARGUMENTS:
        sizes = args if short in FACTORIES else args[1:]
        return any(isinstance(each, torch.Tensor) for each in _flat((sizes, kwargs)))
    if short in ("__getitem__", "__setitem__"):
        return any(_selects_by_content(each) for each in _flat(args[1:2]))
    return False


def _selects_by_content(index: Any) -> bool:
    if isinstance(index, slice):
        return any(isinstance(each, torch.Tensor) for each in (index.start, index.stop, index.step))
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for part in tree for leaf in _flat(part)] if isinstance(tree, (tuple, list)) else [tree]


def call_name(function: Callable[..., Any]) -> str:
    """Return the name of a torch function, the same in every process."""
    owner = getattr(function, "__self__", None)
    if getattr(function, "__name__", "") in ("__get__", "__set__") and owner is not None:
        return f"Tensor.{'' if function.__name__ == '__get__' else 'set_'}{getattr(owner, '__name__', '?')}"
    qualified = str(getattr(function, "__qualname__", None) or getattr(function, "__name__", type(function)))
    module = getattr(function, "__module__", None) or "torch"
    # One function is reached through several private classes, whose names differ between versions.
    short = qualified.replace("_TensorBase.", "Tensor.").replace("TensorBase.", "Tensor.")
    short = short.replace("_VariableFunctionsClass.", "torch.").replace("_VariableFunctions.", "torch.")
    return short if short != qualified or isinstance(function, types.MethodDescriptorType) else f"{module}.{qualified}"


def is_metadata(name: str) -> bool:
    """Return whether a call only asks how a tensor is laid out."""
    return name.rpartition(".")[2] in METADATA
