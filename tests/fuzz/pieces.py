"""What programs are made of: pieces of a network as text, with what is known of each by construction.

A piece changes ``x``, whose layout is ``vec`` (batch, 8), ``map`` (batch, 8, height, width) or ``seq`` (batch, length, 8).
It reads the inputs that it needs by name. Its text stands in a block of its own, or loose in the forward of what holds it;
``$n`` tells the attributes of loose pieces apart, ``$at`` is what they are attributes of.
"""

from __future__ import annotations

import dataclasses

__all__ = ["DUBIOUS", "MIXED", "PLAIN", "SOUND", "Piece"]

SOUND = "sound"  # a row is a function of its sample alone: caching must be accepted
DUBIOUS = "dubious"  # so too, but it may be refused: it cannot be told, or not be laid out as rows
MIXED = "mixed"  # a row depends on others, on chance or on what ran before: no row may be wrong in silence


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a network as text.

    ``inner`` names its submodules in the order in which they run, for cuts inside of it; empty where something else of it
    has weights. ``choices`` are the values of the further placeholders, the simplest first. ``edits`` are statements that
    change what it computes. ``after`` is run once the network is made. ``modes`` says that it behaves otherwise in training.
    """

    name: str
    layouts: tuple[str, ...]
    forward: str
    init: str = ""
    needs: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    choices: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    edits: tuple[str, ...] = ()
    after: str = ""
    fact: str = SOUND
    modes: bool = False
    ragged: bool = True  # it may stand in a network whose samples vary in length
    loose: bool | None = None  # True: only loose; False: only in a block
    before: str = ""  # its fact before the cut, if that is another
    open_fact: str = ""  # its fact where it stands loose before the cut, if that is another
    behind: str = SOUND  # its fact after the cut, where it is a mixer
    tied: str = ""  # a weight of shape (8, 8) that can be tied to another one


WEIGHT = "$at.linear$n.weight.data.view(-1)[0] += 0.1"
ACT = ("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.GELU()", "nn.Tanh()", "nn.SiLU(inplace=True)")
DROP = ("0.2", "0.5")
ALL = ("vec", "map", "seq")
FLAT = ("vec", "seq")

# fmt: off
PLAIN = [
    Piece("linear", FLAT, "x = self.linear$n(x)", "self.linear$n = nn.Linear(8, 8)", inner=("linear$n",),
          edits=(WEIGHT, "$at.linear$n.bias.data[0] += 0.1"), tied="linear$n"),
    Piece("linear and activation", FLAT, "x = self.act$n(self.linear$n(x))",
          "self.linear$n = nn.Linear(8, 8)\nself.act$n = $act", inner=("linear$n", "act$n"), choices={"act": ACT},
          edits=(WEIGHT, "$at.act$n = nn.Sigmoid()"), tied="linear$n"),
    Piece("conv", ("map",), "x = self.conv$n(x)", "self.conv$n = nn.Conv2d(8, 8, 3, padding=1$more)", inner=("conv$n",),
          choices={"more": ("", ", groups=2", ", padding_mode='circular'")},
          edits=("$at.conv$n.weight.data.view(-1)[0] += 0.1",
                 "$at.conv$n.dilation = $at.conv$n.padding = (2, 2)\n$at.conv$n._reversed_padding_repeated_twice = (2,) * 4")),
    Piece("conv, norm, activation", ("map",), "x = self.act$n(self.norm$n(self.conv$n(x)))",
          "self.conv$n = nn.Conv2d(8, 8, 3, padding=1)\nself.norm$n = $norm\nself.act$n = $act",
          inner=("conv$n", "norm$n", "act$n"), modes=True,
          choices={"norm": ("nn.BatchNorm2d(8)", "nn.GroupNorm(2, 8)", "nn.BatchNorm2d(8, momentum=None)"), "act": ACT},
          edits=("$at.norm$n.bias.data[0] += 0.1", "$at.norm$n.eps = 0.3", "$at.act$n = nn.Sigmoid()")),
    Piece("batch norm", ("vec",), "x = self.norm$n(x)", "self.norm$n = nn.BatchNorm1d(8)", inner=("norm$n",), modes=True,
          edits=("$at.norm$n.running_mean[0] += 0.1", "$at.norm$n.eps = 0.3", "$at.norm$n.weight.data[0] += 0.1")),
    Piece("layer norm", FLAT, "x = self.norm$n(x)", "self.norm$n = nn.LayerNorm(8)", inner=("norm$n",),
          edits=("$at.norm$n.eps = 0.3", "$at.norm$n.weight.data[0] += 0.1")),
    Piece("squeeze and excite", ("map",), "x = x * torch.sigmoid(self.linear$n(x.mean((2, 3))))[..., None, None]",
          "self.linear$n = nn.Linear(8, 8)", inner=("linear$n",), edits=(WEIGHT,)),
    Piece("down and up", ("map",), "x = x + F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:], mode=self.mode$n)",
          'self.mode$n = "nearest"', edits=('$at.mode$n = "bilinear"',)),
    Piece("normalised weight", FLAT, "x = self.linear$n(x)",
          "self.linear$n = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))", inner=("linear$n",),
          edits=("$at.linear$n.parametrizations.weight.original0.data[0] += 0.1",)),
    Piece("spectral norm", FLAT, "x = self.linear$n(x)",
          "self.linear$n = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))", inner=("linear$n",), modes=True,
          edits=("$at.linear$n.parametrizations.weight.original.data.view(-1)[0] += 0.1",)),
    Piece("own parametrization", FLAT, "x = self.linear$n(x)",
          "self.linear$n = nn.Linear(8, 8)\n"
          "nn.utils.parametrize.register_parametrization(self.linear$n, 'weight', Symmetric())", inner=("linear$n",),
          edits=("$at.linear$n.parametrizations.weight.original.data.view(-1)[0] += 0.1",
                 "$at.linear$n.parametrizations.weight[0].factor = 0.25")),
    Piece("dropout", ALL, "x = self.drop$n(x)", "self.drop$n = nn.Dropout($p$more)", inner=("drop$n",), modes=True,
          choices={"p": DROP, "more": ("", ", inplace=True")}),
    Piece("functional dropout", ALL, "x = F.dropout(x, $p, self.training)", choices={"p": DROP}, modes=True),
    Piece("scale", ALL, "x = x * self.scale$n", "self.scale$n = nn.Parameter(torch.rand([]) + 0.5)",
          edits=("$at.scale$n.data += 0.1",)),
    Piece("buffer", ALL, "x = x + self.shift$n", 'self.register_buffer("shift$n", torch.rand([])$more)',
          choices={"more": ("", ", persistent=False")}, edits=("$at.shift$n += 0.1",)),
    Piece("plain tensor", ALL, "x = x + self.plain$n", "self.plain$n = torch.rand([])",
          edits=("$at.plain$n.add_(0.1)", "$at.plain$n = torch.tensor(3.0)")),
    Piece("number", ALL, "x = x * self.alpha$n", "self.alpha$n = 0.75", edits=("$at.alpha$n = 0.5",)),
    Piece("numbers in a list", ALL, "for each in self.parts$n:\n    x = x + each", "self.parts$n = [0.1, 0.2]",
          edits=("$at.parts$n.append(0.3)", "$at.parts$n[0] = 0.4")),
    Piece("flag", ALL, "if self.flag$n:\n    x = x.abs()\nelse:\n    x = x.relu()", "self.flag$n = $flag",
          choices={"flag": ("True", "False")}, edits=("$at.flag$n = not $at.flag$n",)),
    Piece("options in a dict", ALL, 'x = F.leaky_relu(x, **self.options$n)',
          'self.options$n = {"negative_slope": 0.2}', edits=("$at.options$n['negative_slope'] = 0.4",)),
    Piece("table made when needed", ALL,
          "if self.table$n is None:\n    self.table$n = torch.linspace(0.5, 1, x.shape[-1])\nx = x * self.table$n",
          "self.table$n = None"),
    Piece("tables by size", ALL,
          "if x.shape[-1] not in self.tables$n:\n    self.tables$n[x.shape[-1]] = torch.linspace(0.5, 1, x.shape[-1])\n"
          "x = x * self.tables$n[x.shape[-1]]", "self.tables$n = {}"),
    Piece("function in an attribute", ALL, "x = self.function$n(x)", "self.function$n = $function",
          choices={"function": ("torch.tanh", "functools.partial(F.leaky_relu, negative_slope=0.3)", "lambda x: x * 2 + 1")},
          edits=("$at.function$n = torch.sigmoid",)),
    Piece("method chosen by name", ALL, "x = getattr(x, self.method$n)()", 'self.method$n = "tanh"',
          edits=('$at.method$n = "sigmoid"',)),
    Piece("in place: activation", ALL, "x = $how", choices={"how": ("x.relu_()", "F.relu(x, inplace=True)",
          "torch.sigmoid_(x)")}),
    Piece("in place: add", ALL, "x += 0.5"),
    Piece("in place: a column", ALL, "x[:, 0] = x[:, 0] * 2"),
    Piece("in place: a channel", ALL, "x = x.clone()\nx[..., 0] = x[..., 1] + 1"),
    Piece("in place: a view", ALL, "x = x * 1\nview = x[..., :2]\nview.mul_(2)"),
    Piece("in place: clamp", ALL, "x = x.clone()\nx.flatten(1).clamp_(max=1.5)\nx = x + 0.1"),
    Piece("residual", ALL, "x = x + self.inner$n(x)", "self.inner$n = nn.Sequential(nn.Tanh(), nn.Identity())",
          inner=("inner$n",),
          edits=("$at.inner$n[0] = nn.Sigmoid()",)),
    Piece("loop over layers", FLAT, "for layer in self.layers$n:\n    x = torch.tanh(layer(x))",
          "self.layers$n = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))", inner=("layers$n.0", "layers$n.1"),
          edits=("$at.layers$n[1].weight.data.view(-1)[0] += 0.1", "$at.layers$n.append(nn.Linear(8, 8))")),
    Piece("layers in a plain list", FLAT, "for layer in self.hidden$n:\n    x = layer(x)",
          "self.hidden$n = [nn.Linear(8, 8), nn.Tanh()]",
          edits=("$at.hidden$n[0].weight.data.view(-1)[0] += 0.1", "$at.hidden$n[1] = nn.Sigmoid()")),
    Piece("layers in a plain dict", FLAT, 'x = self.hidden$n["a"](x)', 'self.hidden$n = {"a": nn.Linear(8, 8), "b": nn.Tanh()}',
          edits=("$at.hidden$n['a'].weight.data.view(-1)[0] += 0.1",)),
    Piece("closure on a layer", FLAT, "x = x + self.call$n(x)",
          "inner = self.inner$n = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3))\nself.call$n = lambda x: inner(x)", modes=True,
          edits=("$at.inner$n[0].weight.data.view(-1)[0] += 0.1",)),
    Piece("closure on batch norm", ("vec",), "x = x + self.call$n(x)",
          "inner = self.inner$n = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))\n"
          "self.call$n = $call", modes=True, choices={"call": ("lambda x: inner(x)", "functools.partial(apply, inner)",
          "inner.forward")},
          edits=("$at.inner$n[0].weight.data.view(-1)[0] += 0.1",)),
    Piece("bound method of another block", FLAT, "x = x + self.method$n(x)",
          "self.inner$n = nn.Linear(8, 8)\nself.method$n = self.inner$n.forward",
          edits=("$at.inner$n.weight.data.view(-1)[0] += 0.1",)),
    Piece("partial of a weight", FLAT, "x = self.call$n(x)",
          "self.weight$n = nn.Parameter(torch.randn(8, 8) * 0.3)\nself.call$n = functools.partial(apply_weight, self)",
          edits=("$at.weight$n.data.view(-1)[0] += 0.1",), loose=False),
    Piece("called twice", FLAT, "x = torch.tanh(self.linear$n(torch.tanh(self.linear$n(x))))", "self.linear$n = nn.Linear(8, 8)",
          inner=("linear$n",), edits=(WEIGHT,)),
    Piece("autocast", FLAT, 'with torch.autocast("cpu", dtype=torch.bfloat16):\n    x = self.linear$n(x)\nx = x.float()',
          "self.linear$n = nn.Linear(8, 8)", inner=("linear$n",), edits=(WEIGHT,), before=DUBIOUS),
    Piece("without gradients", FLAT, "with torch.no_grad():\n    x = torch.tanh(self.linear$n(x))",
          "self.linear$n = nn.Linear(8, 8)",
          edits=(WEIGHT,)),
    Piece("checkpoint", FLAT, "x = torch.utils.checkpoint.checkpoint(self.linear$n, x, use_reentrant=False)",
          "self.linear$n = nn.Linear(8, 8)", inner=("linear$n",), edits=(WEIGHT,)),
    Piece("windows", ("vec",), "x = self.linear$n(x.reshape(-1, 4)).reshape(-1, 8)", "self.linear$n = nn.Linear(4, 4)",
          inner=("linear$n",), edits=(WEIGHT,)),
    Piece("tokens of channels", ("map",), "y = self.norm$n(x.flatten(2).transpose(1, 2))\nx = y.transpose(1, 2).reshape(x.shape)",
          "self.norm$n = nn.LayerNorm(8)", inner=("norm$n",), edits=("$at.norm$n.eps = 0.3",)),
    Piece("otherwise in training", ALL, "if self.training:\n    x = x * 1.5", modes=True, open_fact=DUBIOUS),
    Piece("extra layer in training", FLAT, "if self.training:\n    x = x + self.linear$n(x)", "self.linear$n = nn.Linear(8, 8)",
          modes=True, open_fact=DUBIOUS),
    Piece("stochastic depth", FLAT,
          "if not self.training or float(torch.rand([])) > 0.5:\n    x = x + torch.tanh(self.linear$n(x))",
          "self.linear$n = nn.Linear(8, 8)", modes=True, open_fact=DUBIOUS, edits=(WEIGHT,)),
    Piece("branch on the batch size", ALL,
          "if x.shape[0] > 4:\n    x = torch.cat([torch.tanh(x[:4]), torch.tanh(x[4:])])\nelse:\n    x = torch.tanh(x)"),
    Piece("branch on one sample", ALL, "if len(x) == 1:\n    x = torch.sin(x[0])[None]\nelse:\n    x = torch.sin(x)"),
    Piece("sample by sample", ALL, "x = torch.stack([torch.tanh(each) for each in x])", fact=DUBIOUS),
    Piece("branch on a dimension", ALL, "if x.dim() > 2:\n    x = x * 0.5\nelse:\n    x = x * 0.75"),
    Piece("branch on a dtype", ALL, "if x.dtype == torch.float32 and not x.is_cuda:\n    x = x.sin()"),
]
# fmt: on
