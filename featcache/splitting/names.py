"""What torch calls are called, and which of them tell about content."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

__all__ = ["ESCAPES", "call_name", "is_metadata"]

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
    "equal", "allclose", "is_nonzero", "data_ptr", "untyped_storage", "storage", "__dlpack__",
}  # fmt: skip


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
