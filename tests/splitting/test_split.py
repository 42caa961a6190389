from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import featcache
from featcache.errors import SplitError, UnknownCutError
from featcache.splitting.candidates import cuts
from featcache.splitting.fold import fold
from featcache.splitting.splitting import split

from ..conftest import SmallNet


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give constant weights and statistics random values: a zero layer hides whatever comes in."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.numel() < 2 or float(parameter.detach().std()) < 1e-8:
            values = torch.rand(parameter.shape, generator=generator) * 0.5 + 0.25
            parameter.data.copy_(values)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


def check_strictly(model: nn.Module, made: featcache.Split, *inputs: torch.Tensor) -> None:
    """suffix(prefix(x)) is the model bit for bit, the prefix does not run again, and the frontier really matters."""
    with torch.no_grad():
        whole = model(*inputs)
        frontier = made.prefix(*inputs)
        made.suffix.eval()
        again = made.suffix(frontier)
        assert torch.isfinite(whole).all()
        assert torch.equal(whole, again)
        changed = (
            {name: value * 1.5 + 0.25 if value.is_floating_point() else value for name, value in frontier.items()}
            if isinstance(frontier, dict)
            else frontier * 1.5 + 0.25
        )
        if any(True for _ in made.suffix.parameters()):
            assert not torch.equal(made.suffix(changed), whole)


def frozen_step(model: nn.Module, cut: str, trained: set[str], x: torch.Tensor) -> tuple[torch.Tensor, dict, dict]:
    """A training step of a copy of the whole model: what runs before the cut in evaluation mode, without gradients."""
    copied = copy.deepcopy(model).train()
    order = [name for name, module in copied.named_modules() if name and not any(True for _ in module.children())]
    last = max(position for position, name in enumerate(order) if f"{name}.".startswith(f"{cut}."))
    for name in order[: last + 1]:
        copied.get_submodule(name).eval()
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_(name in trained)
    torch.manual_seed(3)
    output = copied(x)
    output.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in copied.named_parameters() if name in trained}
    return output, gradients, dict(copied.named_buffers())


@pytest.mark.parametrize("cut", ["stem", "block", "tail", "pool", "stem.0", "block.1"])
def test_suffix_of_prefix_equals_the_model_in_evaluation_and_in_training(net: SmallNet, cut: str) -> None:
    x = torch.randn(5, 3, 12, 12)
    made = split(net, cut, (x[:2],))
    check_strictly(net, made, x)
    trained = {name for name, _ in made.suffix.named_parameters()}
    output, gradients, buffers = frozen_step(net, cut, trained, x)
    made.suffix.train()
    frontier = made.prefix(x)
    torch.manual_seed(3)
    mine = made.suffix(frontier)
    mine.square().mean().backward()
    assert torch.equal(mine, output)
    named = dict(net.named_parameters())
    assert trained
    assert all(torch.equal(named[name].grad, gradient) for name, gradient in gradients.items())
    assert all(named[name].grad is None for name in named if name not in trained)
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers())


CALLS = []


def test_the_prefix_does_not_run_when_the_suffix_does(net: SmallNet) -> None:
    x = torch.randn(4, 3, 12, 12)
    for module in net.stem.modules():
        module.register_forward_hook(lambda *_: CALLS.append(1))
    made = split(net, "block", (x,))
    frontier = made.prefix(x)
    assert CALLS
    CALLS.clear()
    made.suffix(frontier)
    assert not CALLS


def test_prefix_and_split_leave_modes_gradients_and_random_state_alone(net: SmallNet) -> None:
    net.train()
    x = torch.randn(4, 3, 12, 12)
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    made = split(net, "block", (x,))
    assert not made.prefix(x).requires_grad
    assert torch.equal(torch.rand(1), expected)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_suffix_shares_its_parameters_under_the_models_names(net: SmallNet) -> None:
    made = split(net, "block", (torch.randn(2, 3, 12, 12),))
    named = dict(net.named_parameters())
    mine = dict(made.suffix.named_parameters())
    assert set(mine) == {name for name in named if name.startswith(("tail", "fc"))}
    assert all(mine[name] is named[name] for name in mine)
    assert set(made.suffix.state_dict()) <= set(net.state_dict())


class Skip(nn.Module):
    """A skip connection over the cut, and control flow in Python."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = torch.relu(self.first(x))
        y = early
        for number, layer in enumerate(self.layers):
            y = layer(y) if number % 2 else torch.relu_(layer(y)) + y
        if self.training:
            y = nn.functional.dropout(y, 0.4)
        batch = x.shape[0]
        both = torch.cat([y, early], dim=1).view(batch, 8, -1).mean(-1)
        return self.head(both)


@pytest.mark.parametrize("cut", ["first", "layers.0", "layers.1", "layers.2"])
def test_tensors_that_skip_the_cut_cross_it_and_python_control_flow_runs(cut: str) -> None:
    torch.manual_seed(0)
    model = Skip().eval()
    x = torch.randn(5, 3, 6, 6)
    made = split(model, cut, (x[:2],))
    check_strictly(model, made, x)
    names = [spec.name for spec in made.frontier]
    assert names[0] == cut
    assert len(names) == {"first": 1, "layers.0": 2, "layers.1": 2, "layers.2": 3}[cut]
    made.suffix.train()
    frontier = made.prefix(x)
    torch.manual_seed(4)
    first = made.suffix(frontier)
    torch.manual_seed(4)
    model.train()
    assert torch.equal(first, model(x))


def test_a_suffix_that_writes_in_place_does_not_change_the_cached_tensor() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2)).eval()
    x = torch.randn(3, 3, 6, 6)
    made = split(model, "0", (x[:2],))
    frontier = made.prefix(x)
    before = frontier.clone()
    made.suffix(frontier)
    assert torch.equal(frontier, before)
    check_strictly(model, made, x)


class Masked(nn.Module):
    """Token ids with a mask that the layers after the cut need, as keyword inputs."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.embed(input_ids)
        hidden = attention_mask == 0
        for block in self.blocks:
            x = block(x, src_key_padding_mask=hidden)
        weights = attention_mask.unsqueeze(-1).float()
        return {"logits": self.head((x * weights).sum(1) / weights.sum(1).clamp(min=1))}


def test_masks_that_the_suffix_needs_cross_the_frontier_as_they_are() -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    ids = torch.randint(0, 20, (4, 6))
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[1, 3:] = 0
    made = split(model, "blocks.0", {"input_ids": ids, "attention_mask": mask})
    assert [spec.name for spec in made.frontier] == ["blocks.0", "attention_mask"]
    frontier = made.prefix(input_ids=ids, attention_mask=mask)
    assert torch.equal(frontier["attention_mask"], mask)
    assert made.check(input_ids=ids, attention_mask=mask) < 1e-5


class WeightedMean(nn.Module):
    """Needs its mask after the cut only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head((self.body(x) * mask[..., None]).sum(1))


@pytest.mark.parametrize("given", [{}, {"mask": None}])
def test_an_input_that_crosses_the_cut_and_is_left_out_is_asked_for(given: dict[str, None]) -> None:
    made = split(WeightedMean().eval(), "body", {"x": torch.randn(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.long)})
    with pytest.raises(SplitError, match=r"\(mask missing\): give the inputs as the example gave them"):
        made.prefix(x=torch.randn(2, 3, 4), **given)


class Pieces(nn.Module):
    """Makes a row of every two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 3), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.reshape(-1, 2)).reshape(-1, 6))


def test_a_batch_that_gives_parts_of_samples_is_refused() -> None:
    made = split(Pieces().eval(), "body", (torch.randn(2, 4),))
    assert made.prefix(torch.randn(3, 4)).shape == (3, 2, 3)
    with pytest.raises(
        SplitError, match=r"'body'.* has rows of shape \[3\] for these inputs, where \[2, 3\] was recorded"
    ):
        made.prefix(torch.randn(1, 6))


class Centred(nn.Module):
    """What crosses the cut are the features, the input itself, and what depends on the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = self.first(x) - self.first(x).mean(0)
        return self.head(self.body(x) + x + centred)


def test_rows_that_mix_are_found_also_behind_an_input_that_crosses_as_it_is() -> None:
    with pytest.raises(
        SplitError, match=r"'sub', which crosses the cut 'body', holds rows that depend on the other rows"
    ):
        split(Centred().eval(), "body", (torch.randn(2, 4),))


def test_unsound_cuts_are_refused_with_the_reason_and_cuts_that_work() -> None:
    class Escapes(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = x / float(x.abs().max())
            return self.fc(torch.flatten(self.pool(self.tail(self.block(x))), 1))

    x = torch.randn(2, 3, 12, 12)
    with pytest.raises(SplitError, match=r"__float__.*batch.*stem"):
        split(Escapes().eval(), "block", (x,))
    split(Escapes().eval(), "stem", (x,))

    class ThroughNumpy(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = torch.as_tensor(x.detach().clone().mean().reshape(1).tolist())
            return self.fc(torch.flatten(self.pool(self.tail(self.block(self.stem(x) * scale))), 1))

    with pytest.raises(SplitError, match="tolist"):
        split(ThroughNumpy().eval(), "block", (x,))

    class Similarities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = nn.Softmax(dim=-1), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x * self.inner(x @ x.T).mean())

    with pytest.raises(SplitError, match="no dimension of it is the batch"):
        split(Similarities().eval(), "inner", (torch.randn(2, 3),))

    class Unused(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    with pytest.raises(SplitError, match="does not call"):
        split(Unused().eval(), "extra", (x,))


@pytest.mark.slow
def test_a_branch_that_only_training_takes_before_the_cut_is_refused() -> None:
    model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with pytest.raises(SplitError, match="auxiliary"):
        split(randomised(model), "inception5a", (x,))


def test_an_unknown_cut_names_near_ones(net: SmallNet) -> None:
    with pytest.raises(UnknownCutError, match=r"block.*featcache cuts"):
        split(net, "blok", (torch.randn(2, 3, 12, 12),))


def test_cuts_are_in_order_with_growing_shares(net: SmallNet) -> None:
    found = cuts(net, (torch.randn(2, 3, 12, 12),))
    assert [cut.name for cut in found] == ["stem", "block", "tail", "pool", "fc"]
    assert [cut.frontier[0].shape for cut in found] == [(6, 6, 6), (8, 6, 6), (8, 6, 6), (8, 1, 1), (4,)]
    shares = [cut.flops_share for cut in found]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert found[1].size_bytes == 8 * 6 * 6 * 4


def structure_of(model: nn.Module, cut: str = "block") -> str:
    return split(model, cut, (torch.randn(2, 3, 12, 12),)).structure


def test_the_structure_changes_with_the_computation_before_the_cut_and_with_nothing_else(
    net: SmallNet,
) -> None:
    base = structure_of(net)
    assert structure_of(copy.deepcopy(net)) == base
    assert split(net, "block", (torch.randn(7, 3, 12, 12) * 9,)).structure == base
    behind = copy.deepcopy(net)
    behind.tail[0].stride = (2, 2)
    behind.fc = nn.Linear(8, 11)
    assert structure_of(behind) == base
    edits = {
        "stride": lambda model: setattr(model.block[0], "dilation", (2, 2)),
        "eps": lambda model: setattr(model.stem[1], "eps", 1e-3),
        "activation": lambda model: model.stem.__setitem__(2, nn.ReLU6()),
        "padding": lambda model: setattr(model.block[0], "padding_mode", "reflect"),
        "extra": lambda model: model.stem.append(nn.Tanh()),
    }
    seen = {base}
    for edit in edits.values():
        changed = copy.deepcopy(net)
        edit(changed)
        seen.add(structure_of(changed))
    assert len(seen) == len(edits) + 1


def test_weight_digests_change_with_a_weight_or_a_buffer_before_the_cut_only(net: SmallNet) -> None:
    made = split(net, "block", (torch.randn(2, 3, 12, 12),))
    base = made.weights
    assert set(base) == {
        name for name in net.state_dict() if name.startswith(("stem", "block")) and not name.endswith("batches_tracked")
    }
    with torch.no_grad():
        net.fc.weight.add_(1)
        assert made.weights == base
        net.stem[0].weight.view(-1)[5] += 1e-6
        assert [name for name in base if made.weights[name] != base[name]] == ["stem.0.weight"]
        net.block[1].running_mean[0] += 1e-6
    assert {name for name in base if made.weights[name] != base[name]} == {
        "stem.0.weight",
        "block.1.running_mean",
    }


def test_weights_that_are_used_without_the_input_are_digested_too() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 4))
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = self.table.softmax(-1).mean(0)
            return self.last(self.first(x) + bias)

    made = split(Biased().eval(), "first", (torch.randn(2, 4),))
    assert "table" in {*made.weights, *dict(made.suffix.named_parameters())}


@pytest.mark.slow
def test_digests_are_equal_in_another_process_with_another_hash_seed(net: SmallNet) -> None:
    made = split(net, "block", (torch.randn(2, 3, 12, 12),))
    code = (
        "import torch; from tests.conftest import SmallNet; from featcache.splitting import split;"
        "m = SmallNet().eval(); print(split(m, 'block', (torch.randn(3, 3, 12, 12),)).structure)"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**__import__("os").environ, "PYTHONHASHSEED": seed},
        )
        assert done.stdout.strip() == made.structure, done.stderr


def test_a_split_copies_pickles_and_rebinds(net: SmallNet) -> None:
    x = torch.randn(4, 3, 12, 12)
    made = split(net, "block", (x,))
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made.rebind(copy.deepcopy(net))):
        assert torch.equal(other.prefix(x), made.prefix(x))
        assert other.model is not net
        assert other.structure == made.structure
        assert all(
            parameter is dict(other.model.named_parameters())[name]
            for name, parameter in other.suffix.named_parameters()
        )


def test_fold_takes_what_training_never_changes(net: SmallNet) -> None:
    x = torch.randn(6, 3, 12, 12)
    made = split(net, "tail", (x,))
    frozen, rest = fold(made.suffix.eval())
    assert frozen is not None
    assert torch.equal(rest(frozen(made.prefix(x))), made.suffix(made.prefix(x)))
    assert {name for name, _ in rest.named_parameters()} == {"fc.weight", "fc.bias"}
    earlier = split(net, "block", (x,))
    earlier.suffix.train()
    nothing, same = fold(earlier.suffix)
    assert nothing is None
    assert same is earlier.suffix


def test_a_flat_suffix_compiles_and_exports(net: SmallNet) -> None:
    x = torch.randn(4, 3, 12, 12)
    made = split(net, "block", (x,))
    assert made.flat
    made.suffix.eval()
    program = torch.export.export(made.suffix, (made.prefix(x),))
    assert torch.equal(program.module()(made.prefix(x)), net(x))


FAMILIES = [
    "alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "shufflenet_v2_x0_5", "squeezenet1_1", "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "vit_b_16",
    "swin_t", "swin_v2_t", "inception_v3", "googlenet",
]  # fmt: skip

# Those of at most 12 M parameters; larger ones are built of the same blocks.
SMALL_MODELS = [
    name
    for name in torchvision.models.list_models(torchvision.models)
    if torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] < 12e6
]


def survey(name: str, most: int) -> None:
    """Split a torchvision network at evenly chosen block boundaries, strictly."""
    torch.manual_seed(0)
    options = {"image_size": 64} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False}
    model = randomised(torchvision.models.get_model(name, weights=None, **options))
    size = 224 if name.startswith("maxvit") else 96 if name == "inception_v3" else 64
    x = torch.randn(3, 3, size, size)
    boundaries = [cut for cut in cuts(model, (x[:2],)) if "." in cut.name or cut.name.startswith("layer")]
    boundaries = boundaries or cuts(model, (x[:2],))
    step = max(1, len(boundaries) // most)
    for cut in boundaries[::step]:
        made = split(model, cut.name, (x[:2],))
        check_strictly(model, made, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_torchvision_family_splits_at_its_blocks(name: str) -> None:
    survey(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maxvit_t", *sorted({*SMALL_MODELS} - {*FAMILIES})])
def test_every_other_torchvision_classification_network_splits_too(name: str) -> None:
    survey(name, 1)
