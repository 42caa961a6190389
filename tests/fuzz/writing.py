"""From a program to source code that stands alone."""

from __future__ import annotations

from .known import Facts, Layout, facts
from .pieces_inputs import POOLS
from .programs import KINDS, Program

__all__ = ["source"]

HEADER = '''"""Program {seed}: {kind}, cut after {cut!r}, {fact}."""
import dataclasses, functools
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn


@dataclasses.dataclass
class State:
    x: torch.Tensor
    more: object = None


class Symmetric(nn.Module):
    factor = 0.5

    def forward(self, weight):
        return (weight + weight.T) * self.factor


def apply(module, x):
    return module(x)


def apply_weight(module, x):
    return x @ module.weight
'''
MAKE = """
def make():
    torch.manual_seed({seed})
    net = Net()
    with torch.no_grad():
        for name, each in [*net.named_parameters(), *net.named_buffers()]:
            if each.is_floating_point() and each.dim() < 2 and name.rpartition(".")[2] not in ("_u", "_v"):
                each.copy_(torch.rand(each.shape) * 0.8 + (0.5 if name.endswith(("weight", "var")) else 0.1))
{after}
    return net.eval()
"""
DATA = '''
def data():
    """Samples that differ in scale and, where they have a length, in length."""
    draw, rows = torch.Generator().manual_seed({seed} + 1), []
    for number, length in enumerate({lengths}):
        scale = (1.0, 3.0, 0.5, 1.5)[number % 4]
{lines}
        rows.append(({item}, number % 3))
    return rows
'''
LINES = {
    "vectors": "x = torch.randn(8, generator=draw) * scale",
    "task": "x, task = torch.randn(8, generator=draw) * scale, torch.tensor((number * 2 + number // 4) % 3)",
    "images": "x = torch.randn(3, 6, 6, generator=draw) * scale",
    "image and ids": "x, ids = torch.randn(3, 6, 6, generator=draw) * scale, torch.randint(1, 12, (4,), generator=draw)",
    "sequences": "x, lengths = torch.randn(7, 5, generator=draw) * scale, torch.tensor(length)",
    "tokens": "ids, mask = torch.randint(1, 12, (7,), generator=draw), torch.arange(7) < length",
    "ragged": "ids, mask = torch.randint(1, 12, (length,), generator=draw), torch.ones(length, dtype=torch.bool)",
}
STEMS = {
    "images": ("self.stem = nn.Conv2d(3, 8, 3, padding=1)", "x = self.stem(x)"),
    "image and ids": ("self.stem = nn.Conv2d(3, 8, 3, padding=1)\nself.text = nn.Embedding(12, 8)", "x = self.stem(x)"),
    "tokens": ("self.stem = nn.Embedding(12, 8)", "mask = mask.bool()\nx = self.stem(ids)"),
    "sequences": (
        "self.stem = nn.Linear(5, 8)",
        "mask = torch.arange(x.shape[1])[None] < lengths[:, None]\nx = self.stem(x)",
    ),
}
OUTPUTS = {
    "tensor": "return self.head(x)",
    "dict": 'return {"logits": self.head(x), "hidden": x}',
    "dataclass": "return State(self.head(x), x)",
    "tuple": "return self.head(x), x",
}
OWN_TRAIN = {
    "norm": "for each in self.modules():\n    if 'Norm' in type(each).__name__:\n        each.eval()",
    "dropout": "for each in self.modules():\n    if isinstance(each, nn.Dropout):\n        each.eval()",
    "first": "next(each for each in self.children()).eval()",
}
HOOKS = {
    "forward": "{at}.register_forward_hook(lambda module, args, output: output * 1.25)",
    "pre": "{at}.register_forward_pre_hook(lambda module, args: (args[0] * 0.75, *args[1:]))",
    "keyword": "{at}.register_forward_hook(lambda module, args, kwargs, output: output + 0.25, with_kwargs=True)",
    "in place": "{at}.register_forward_hook(lambda module, args, output: output.clone().mul_(1.25))",
    "first": "{at}.register_forward_hook(lambda module, args, output: output - 0.25, prepend=True)",
}


def _indented(text: str, depth: int) -> str:
    return "\n".join(" " * 4 * depth + line if line else line for line in text.splitlines())


def _class(name: str, init: list[str], signature: str, forward: list[str], more: str = "") -> str:
    body = "\n".join(["super().__init__()", *init])
    made = f"\n\nclass {name}(nn.Module):\n    def __init__(self):\n{_indented(body, 2)}\n\n"
    return made + f"    def forward(self, {signature}):\n" + _indented("\n".join(forward), 2) + "\n" + more


def _block(layout: Layout, number: int) -> str:
    step = layout.program.steps[number]
    names = ["x", *step.what.needs]
    takes, gives = ", ".join(names), ["return x"]
    if step.style == "dict":
        takes, unpacked = "state", [f'{each} = state["{each}"]' for each in names]
        gives = ['return {**state, "x": x}']
    elif step.style == "dataclass":
        takes, unpacked = (
            "state",
            [f"{each} = state.more[{n - 1}]" if n else "x = state.x" for n, each in enumerate(names)],
        )
        gives = ["return State(x, state.more)"]
    else:
        unpacked = []
        gives = ["return x, x.flatten(1).mean(1)"] if step.style == "tuple" else gives
    init = layout.filled(number, step.what.init).splitlines()
    return _class(f"Block{number}", init, takes, [*unpacked, layout.filled(number, step.what.forward), *gives])


def _call(layout: Layout, number: int) -> str:
    step = layout.program.steps[number]
    if step.loose:
        return layout.filled(number, step.what.forward)
    names, block = ["x", *step.what.needs], f"self.b{number}"
    if step.style == "dict":
        return f"x = {block}({{{', '.join(f'{each!r}: {each}' for each in names)}}})['x']"
    if step.style == "dataclass":
        return f"x = {block}(State(x, ({''.join(f'{each}, ' for each in names[1:])}))).x"
    if step.style == "tuple":
        return f"x, summary = {block}({', '.join(names)})"
    if step.style == "keyword":
        return f"x = {block}({', '.join(f'{each}={each}' for each in names)})"
    return f"x = {block}({', '.join(names)})"


def _made(layout: Layout, numbers: tuple[int, ...]) -> list[str]:
    steps = layout.program.steps
    return [layout.filled(n, steps[n].what.init) if steps[n].loose else f"self.b{n} = Block{n}()" for n in numbers]


def _stage(layout: Layout, unit: tuple[int, ...]) -> str:
    needs = sorted({each for number in unit for each in layout.program.steps[number].what.needs})
    kept, given = (["kept = x"], ["return x + kept"]) if layout.program.residual_stages else ([], ["return x"])
    forward = [*kept, *(_call(layout, number) for number in unit), *given]
    return _class(f"Stage{layout.program.steps[unit[0]].stage}", _made(layout, unit), ", ".join(["x", *needs]), forward)


def _network(layout: Layout) -> str:
    program = layout.program
    init, forward = [], []
    stem = STEMS.get(program.kind)
    if program.passing == "**batch":
        forward += [f'{each} = batch["{each}"]' for each in program.inputs]
    if stem:
        init.append(stem[0])
        forward.append(stem[1])
    for unit in program.units():
        skips = [(n, each) for n, each in enumerate(program.skips)]
        forward += [f"skip{n} = x" for n, each in skips if each[0] == unit[0]]
        if layout.holder(unit[0]):
            needs = sorted({each for number in unit for each in program.steps[number].what.needs})
            name = layout.holder(unit[0])
            init.append(f"self.{name} = Stage{name[1:]}()")
            forward.append(f"x = self.{name}({', '.join(['x', *needs])})")
        else:
            init += _made(layout, unit)
            forward.append(_call(layout, unit[0]))
        forward += [each[2].format(f"skip{n}") for n, each in skips if each[1] == unit[-1]]
        forward += [_call(layout, again) for again, after in program.again if after == unit[-1]]
        if program.kind == "image and ids" and any(program.steps[each].what in POOLS for each in unit):
            forward.append("x = x + self.text(ids).mean(1)")
    init.append(f"self.head = nn.Linear(8, {12 if program.tied_head else 3})")
    forward.append(OUTPUTS[program.output])
    signature = "**batch" if program.passing == "**batch" else ", ".join(program.inputs)
    own = ""
    if program.own_train:
        body = "super().train(mode)\n" + OWN_TRAIN[program.own_train] + "\nreturn self"
        own = f"\n    def train(self, mode=True):\n{_indented(body, 2)}\n"
    return _class("Net", init, signature, forward, own)


def _after(layout: Layout) -> list[str]:
    program, made = layout.program, []
    for one, other in program.ties:
        paths = [layout.path(n, layout.filled(n, program.steps[n].what.tied)) for n in (one, other)]
        made.append(f"net.{paths[1]}.weight = net.{paths[0]}.weight")
    if program.tied_head:
        made.append("net.head.weight = net.stem.weight")
    for number, step in enumerate(program.steps):
        if step.hook:
            made.append(HOOKS[step.hook].format(at=f"net.{layout.path(number)}"))
    return made


def _lengths(program: Program) -> list[int]:
    found = [7, 3, 5, 7, 2, 6, 4, 7, 5, 3] if program.first != "short" else [3, 2, 5, 7, 4, 6, 7, 2, 5, 7]
    if program.first == "full":
        found = [7, 7, *found[1:9]]
    return found[: program.samples]


def source(program: Program) -> str:
    """Return the program as the text of a Python file."""
    layout, known = Layout(program), facts(program)
    blocks = [_block(layout, n) for n, step in enumerate(program.steps) if not step.loose]
    stages = [_stage(layout, unit) for unit in program.units() if layout.holder(unit[0])]
    lines = LINES["ragged" if program.ragged else program.kind]
    if program.kind == "tokens":
        lines += "" if program.garbage else "\nids = ids * mask"
        lines += "\nmask = mask.long()" if program.whole_mask else ""
    if program.kind == "sequences" and not program.garbage:
        lines += "\nx[length:] = 0"
    names = KINDS[program.kind][0]
    item = ", ".join(names) if len(names) == 1 else f"({', '.join(names)})"
    if program.passing != "positional":
        item = f"{{{', '.join(f'{each!r}: {each}' for each in names)}}}"
    parts = [
        HEADER.format(seed=program.seed, kind=program.kind, cut=known.cut, fact=known.fact),
        *blocks,
        *stages,
        _network(layout),
        "\n" + MAKE.format(seed=program.seed, after=_indented("\n".join(_after(layout)), 1)),
        DATA.format(seed=program.seed, lengths=_lengths(program), lines=_indented(lines, 2), item=item),
        *_constants(program, known),
    ]
    return "\n".join(part.rstrip() for part in "".join(parts).splitlines()) + "\n"


def _constants(program: Program, known: Facts) -> list[str]:
    made = [f'\n\nFACT, CUT, SHALLOWER = "{known.fact}", "{known.cut}", "{known.shallower}"\n']
    made.append(f"BEFORE = {list(known.before)}  # modules that run before the cut only\n")
    made.append(f"FROZEN = {list(known.frozen)}  # what is used before the cut\n")
    made.append(f'MODE, SEED, ROUGH, RAGGED = "{program.mode}", {program.seed}, {_rough(program)}, {program.ragged}\n')
    closures = any("closure" in step.piece for step in program.steps)
    side = known.cut.rpartition(".")[2].rstrip("0123456789") in ("text", "task", "places")
    made.append(f"NAMES, CLOSURES, SIDE = {program.inputs}, {closures}, {side}\n")
    for name, edits in (("EDITS", known.edits_before), ("EDITS_BEHIND", known.edits_behind)):
        made.append(f"{name} = [\n" + "".join(f"    {each!r},\n" for each in edits) + "]  # statements on net\n")
    return made


def _rough(program: Program) -> bool:
    return any(step.what.name == "autocast" for step in program.steps)
