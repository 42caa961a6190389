"""The merged network as a state_dict, a torch.export program or ONNX, checked on real input before it is kept."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import HeadError, UsageError, one_line
from ..heads import EstimatorLayer, HeadNetwork, TrainedHead, differing_layers
from ..splitting import deep_copy
from ..storages import whole_file
from ..training import output_tensor
from .formats import HEAD_FORMATS, ExportReport, find_format, missing_extra

__all__ = ["export_head"]

TOLERANCE = 1e-4  # of the output's largest value: what other kernels may differ by


def export_head(
    head: TrainedHead,
    path: str | Path,
    format: str | None = None,
    *,
    inputs: tuple[Any, ...] | Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
) -> ExportReport:
    """Write a whole trained network to a file.

    A ``torch_export`` or ``onnx`` file gives the scores. It is run before it is kept: a file that differs from the
    network by more than rounding is refused.

    Parameters
    ----------
    head : TrainedHead
        The trained head. A scikit-learn estimator must be linear.
    path : str or pathlib.Path
        The file. It appears whole or not at all.
    format : str, optional
        ``"state_dict"`` (``.safetensors``, ``.pt``, ``.pth``), ``"torch_export"`` (``.pt2``) or ``"onnx"`` (``.onnx``).
        By default the suffix of ``path`` decides. A state_dict loads into the original model with ``strict=True``.
    inputs : tuple or mapping of str, optional
        The inputs on which the file is checked, with the batch as first dimension. By default the samples that the
        network was split with.
    model : torch.nn.Module, optional
        The original model. The report of a state_dict then says whether its last layer needs another number of outputs
        first.

    Returns
    -------
    ExportReport
        What was written.

    Raises
    ------
    HeadError
        If the network cannot be exported in this format, or the file differs from the network.
    UsageError
        If the format is unknown, or the head is a scikit-learn estimator that is not linear.
    MissingDependencyError
        If ONNX is asked for and its packages are not installed.
    DataNotFoundError
        If the folder of ``path`` does not exist.
    DataError
        If the file cannot be written.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> head = featcache.train_head(cut, features, epochs=1)
    >>> featcache.export_head(head, "network.safetensors", model=network).notes
    ['loads into Sequential as it is, with strict=True']
    """
    path = Path(path)
    chosen = find_format(path, format, HEAD_FORMATS)
    if isinstance(head.built.stored, EstimatorLayer):
        name = head.head.partition(":")[2]
        raise UsageError(
            f"scikit-learn's {name} is not a network of tensors and cannot be exported: use the suffix, a linear "
            "head, or a linear estimator."
        )
    report = ExportReport(str(path), chosen)
    with torch.inference_mode(False), torch.no_grad(), whole_file(path) as temporary:
        if chosen == "state_dict":
            _write_state(head, model, path.suffix.lower(), temporary, report)
        else:
            given = head.split.example_inputs if inputs is None else inputs
            keywords = tuple(given) if isinstance(given, Mapping) else None
            if isinstance(head.model, HeadNetwork) and head.model.ragged and head.task.kind != "token":
                report.notes.append(
                    "averages over all steps that it is given: run samples of one length together, not padded"
                )
            network = _Scores(deep_copy(head.model).cpu().eval(), head, keywords)
            values = tuple(given.values()) if isinstance(given, Mapping) else tuple(given)
            _write_program(network, _on_cpu(values), chosen, temporary, report)
        report.size_bytes = temporary.stat().st_size
    return report


class _Scores(nn.Module):
    """The network's scores alone, whatever else it returns, by code that torch.export can follow."""

    def __init__(self, model: nn.Module, head: TrainedHead, keywords: tuple[str, ...] | None) -> None:
        super().__init__()
        self.model = model
        self.cuts = head.cuts
        self.keywords = keywords

    def names(self, count: int) -> list[str]:
        """Return the names of ``count`` inputs, as the model's own code has them."""
        if self.keywords is not None:
            return list(self.keywords)
        model = self.model.backbone if isinstance(self.model, HeadNetwork) else self.model
        known = list(inspect.signature(model.forward).parameters)
        return known[:count] if len(known) >= count else [f"input_{number}" for number in range(count)]

    def forward(self, *inputs: Any) -> torch.Tensor:
        """Return the scores (batch, …); keyword inputs are given by position, which every exporter can follow."""
        args: tuple[Any, ...] = () if self.keywords is not None else inputs
        kwargs = dict(zip(self.keywords or (), inputs, strict=False))
        if not isinstance(self.model, HeadNetwork):
            return output_tensor(self.model(*args, **kwargs))
        # The prefix of a split stops by an exception, which no exporter follows; here the rest is run and left unused,
        # and the exporter drops it.
        seen: dict[str, torch.Tensor] = {}
        pool = self.model.pool

        def keep(cut: str) -> Any:  # pooled at once: what follows may write into the output
            return lambda _module, _inputs, output: seen.update({cut: pool(output_tensor(output))})

        handles = [self.model.backbone.get_submodule(cut).register_forward_hook(keep(cut)) for cut in self.cuts]
        try:
            self.model.backbone(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        scores: torch.Tensor = self.model.head(torch.cat([seen[cut] for cut in self.cuts], dim=1))
        return scores


def _write_state(head: TrainedHead, model: nn.Module | None, suffix: str, path: Path, report: ExportReport) -> None:
    state = {name: value.detach().cpu().contiguous().clone() for name, value in head.model.state_dict().items()}
    if suffix in (".pt", ".pth"):
        torch.save(state, path)
        loaded = torch.load(path, weights_only=True)
    else:
        from safetensors.torch import load, save  # its functions of files open no path that is not UTF-8

        path.write_bytes(save(state))
        loaded = load(path.read_bytes())
    deep_copy(head.model).load_state_dict(loaded, strict=True)
    if head.head != "suffix":
        report.notes.append(
            "a head on pooled features is not part of the original model: the names begin with backbone, head"
        )
        return
    if model is None:
        return
    changed = differing_layers(state, model)
    if not changed:
        deep_copy(model).load_state_dict(loaded, strict=True)
        report.notes.append(f"loads into {type(model).__name__} as it is, with strict=True")
    else:
        report.notes.append(
            f"loads into {type(model).__name__} with strict=True once its layer {' and '.join(map(repr, changed))} has "
            f"{head.task.outputs} outputs"
        )


def _write_program(network: _Scores, inputs: tuple[Any, ...], chosen: str, path: Path, report: ExportReport) -> None:
    if network.keywords is not None:
        report.notes.append(f"takes its inputs by position: {', '.join(network.keywords)}")
    with _quiet():
        program, batch, free = _exported(network, inputs, report)
        if chosen == "torch_export":
            content = io.BytesIO()
            torch.export.save(program, content)
            path.write_bytes(content.getvalue())
            loaded = torch.export.load(io.BytesIO(content.getvalue())).module()

            def run(*given: Any) -> torch.Tensor:
                scores: torch.Tensor = loaded(*given)
                return scores
        else:
            run = _write_onnx(program, network.names(len(inputs)), path)
    for rows in sorted({1, batch, 2 * batch} if free else {batch}):
        given = _resized(inputs, rows, batch)
        difference = _difference(network(*given), run(*given))
        report.difference = max(report.difference or 0.0, difference)
        if not difference <= TOLERANCE:
            raise HeadError(
                f"the {chosen} program differs from the network by {difference:.1e} of the output's scale on {rows} samples: it "
                "was not kept. Export a state_dict instead."
            )


def _exported(network: nn.Module, inputs: tuple[Any, ...], report: ExportReport) -> tuple[Any, int, bool]:
    """Return a torch.export program, the batch size of its example, and whether the batch is free."""
    first = next(each for each in pytree.tree_leaves(inputs) if isinstance(each, torch.Tensor))
    batch = len(first)
    free = torch.export.Dim("batch", min=1)
    shapes = pytree.tree_map(
        lambda each: {0: free} if isinstance(each, torch.Tensor) and each.dim() and len(each) == batch else None,
        (inputs,),
    )
    failure: BaseException = HeadError("it was not tried")
    for dynamic in (shapes, None):
        try:
            program = torch.export.export(network, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # the exporter raises many kinds
            failure = error
            continue
        if dynamic is None:
            report.notes.append(
                f"takes batches of {batch} samples only: the network does something else for other sizes"
            )
        return program, batch, dynamic is not None
    raise HeadError(
        f"torch.export cannot follow the network ({one_line(failure)}): export a state_dict instead, and load it into the model."
    ) from failure


def _write_onnx(program: Any, names: list[str], path: Path) -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra("ONNX", "onnx") from error
    try:
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=["scores"])
        made.save(path, external_data=False)  # type: ignore[union-attr]
    except Exception as error:  # the exporter raises many kinds
        raise HeadError(
            f"the network cannot be written as ONNX ({one_line(error)}): use torch_export or state_dict."
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = [each.name for each in session.get_inputs()]

    def run(*given: Any) -> torch.Tensor:
        tensors = [each for each in pytree.tree_leaves(given) if isinstance(each, torch.Tensor)]
        # An input that the scores do not depend on may be dropped; the others keep their names and their order.
        fed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=False) if name in taken}
        return torch.from_numpy(session.run(None, fed)[0])

    return run


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    scale = float(expected.abs().max()) or 1.0
    return float((expected.double() - found.double()).abs().max()) / scale


def _resized(inputs: Any, rows: int, batch: int) -> Any:
    """Return inputs with another number of samples: the first ones, or all of them repeated."""

    def resize(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not each.dim() or len(each) != batch:
            return each
        return each[torch.arange(rows) % batch]

    return pytree.tree_map(resize, inputs)


def _on_cpu(inputs: Any) -> Any:
    return pytree.tree_map(lambda each: each.detach().cpu() if isinstance(each, torch.Tensor) else each, inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings and log lines to themselves: what matters is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
