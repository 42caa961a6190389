"""Pieces that let a row depend on its neighbours, on chance or on what ran before, and their look-alikes, which do not."""

from __future__ import annotations

from .pieces import ALL, DUBIOUS, FLAT, MIXED, Piece

__all__ = ["LOOK_ALIKES", "MIXERS", "MIXERS_OF"]


def _each(x: str) -> str:
    return f"({x}).view(-1, *[1] * (x.dim() - 1))"


ROW = "x.flatten(1)"
MOE = (
    "y = x.reshape(-1, 8)\ngates = self.gate$n(y).softmax(-1)\nhot = F.one_hot(gates.argmax(-1), 2).float()\n{drop}"
    "x = x + torch.einsum('te,td,edf->tf', hot * gates, y, self.experts$n).reshape(x.shape)"
)
MOE_INIT = "self.gate$n = nn.Linear(8, 2)\nself.experts$n = nn.Parameter(torch.randn(2, 8, 8) * 0.4)"
CAPACITY = "place = (hot.cumsum(0) - 1) * hot\nhot = hot * (place < $factor * len(y) / 2).float()\n"


def _mixer(name: str, forward: str, layouts: tuple[str, ...] = ALL, init: str = "", **more: object) -> Piece:
    return Piece(name, layouts, forward, init, fact=MIXED, **more)  # type: ignore[arg-type]


# fmt: off
MIXERS = [
    _mixer("batch mean", "x = x - x.mean(0, keepdim=True)"),
    _mixer("norm by the batch", "x = F.batch_norm(x, None, None, training=True)", ("map",)),
    _mixer("batch norm that keeps no statistics", "x = self.norm$n(x)", ("map",),
           "self.norm$n = nn.BatchNorm2d(8, track_running_stats=False)"),
    _mixer("largest of the batch", "x = x / x.abs().max()"),
    _mixer("quantised by the batch's scale", "step = x.abs().max() / 7\nx = torch.round(x / step) * step"),
    _mixer("quantised by a scale that is detached", "step = x.detach().abs().amax() / 7\nx = torch.round(x / step) * step"),
    _mixer("clipped by the largest norm", f"x = x * (1 / {ROW}.norm(dim=1).max()).clamp(max=1)"),
    _mixer("sign of the sum", "x = torch.where(x.sum() > 0, x, -x)"),
    _mixer("rank in the batch", "x = x + " + _each(f"{ROW}.sum(1).argsort()") + " * 0.1"),
    _mixer("place in the batch", "x = x + " + _each("torch.arange(x.shape[0])") + " * 0.1"),
    _mixer("size of the batch", "x = x / x.shape[0]"),
    _mixer("size of the batch, in a branch", "if x.shape[0] > 4:\n    x = x * 1.1"),
    _mixer("less the first row", "x = x - x[:1]"),
    _mixer("less the row before", "x = torch.cat([x[:1], x[1:] - 0.5 * x[:-1]])"),
    _mixer("less the last row", "x = x - 0.5 * x[-1:]"),
    _mixer("sums over the batch", "x = x + x.cumsum(0) * 0.1"),
    _mixer("rolled over the batch", "x = x + 0.3 * x.roll($by, 0)", choices={"by": ("1", "-1", "2")}),
    _mixer("flipped over the batch", "x = x + 0.3 * x.flip(0)"),
    _mixer("sorted over the batch", "x = x.sort(0).values"),
    _mixer("softmax over the batch", "x = x.softmax(0)"),
    _mixer("attention over the batch", "y = x.flatten(1)\nx = x + ((y @ y.T).softmax(-1) @ y).view(x.shape)"),
    _mixer("best of the batch", "x = x + (" + _each(f"{ROW}.sum(1)") + f" >= {ROW}.sum(1).max()).float()"),
    _mixer("outliers of the batch",
            f"norm = {ROW}.norm(dim=1)\nx = torch.where(" + _each("norm > 2 * norm.median()") + ", x * 0.5, x)"),
    _mixer("half of the batch", "half = x.shape[0] // 2\nx = torch.cat([x[:half] * 2, x[half:]])"),
    _mixer("mixture of experts with a capacity", MOE.format(drop=CAPACITY), FLAT, MOE_INIT, choices={"factor": ("1.0", "1.25")}),
    _mixer("noise", "x = x + torch.$noise(x) * 0.1", choices={"noise": ("randn_like", "rand_like")}, behind=DUBIOUS),
    _mixer("dropout always", "x = F.dropout(x, 0.3)", behind=DUBIOUS),
    _mixer("count of calls", "self.calls$n += 1\nx = x * self.calls$n", init='self.register_buffer("calls$n", torch.zeros([]))',
            behind=DUBIOUS),
    _mixer("running mean, also in evaluation", "self.mean$n.mul_(0.9).add_(0.1 * x.detach().mean())\nx = x - self.mean$n",
           init='self.register_buffer("mean$n", torch.zeros([]))', behind=DUBIOUS),
    _mixer("count of calls in an attribute", "self.calls$n += 1\nx = x * self.calls$n", init="self.calls$n = 0", behind=DUBIOUS),
]
MIXERS_OF = {
    "mask": [
        _mixer("mask's sum over the batch", "x = x * mask.sum() / 20", ("seq",), needs=("mask",)),
        _mixer("longest of the batch", "x = x * int(mask.sum(1).max()) * 0.2", ("seq",), needs=("mask",)),
        _mixer("mask of the first row", "x = x * mask[:1, :, None]", ("seq",), needs=("mask",)),
        _mixer("otherwise where all are full", "x = x * (2.0 if mask.all() else 1.0)", ("seq",), needs=("mask",)),
        _mixer("otherwise where some are padded", "if (~mask).any():\n    x = x + 1", ("seq",), needs=("mask",)),
    ],
    "task": [
        _mixer("task of the first row", "if int(task[0]) == 1:\n    x = x * 2", ("vec",), needs=("task",)),
        _mixer("task of the first row, in a table", "x = x + self.table$n[task[0]]", ("vec",),
                "self.table$n = nn.Parameter(torch.randn(3, 8))",
               needs=("task",)),
        _mixer("rows of the same task", "x = x + 0.1 * (task[:, None] == task).sum(1, keepdim=True)", ("vec",), needs=("task",)),
        _mixer("largest task", "x = x * (1 + task.max())", ("vec",), needs=("task",)),
    ],
}
LOOK_ALIKES = [
    Piece("sort within a row", ALL, "x = x.sort(-1).values"),
    Piece("top-k within a row", ALL, "x = torch.where(x >= x.topk(4, -1).values[..., -1:], x, torch.zeros_like(x))"),
    Piece("sums within a row", ALL, "x = x.cumsum(-1) * 0.3"),
    Piece("softmax within a row", ALL, "x = x.softmax(-1) * 4"),
    Piece("rank within a row", ALL, "x = x + x.argsort(-1).argsort(-1) * 0.1"),
    Piece("roll within a row", ALL, "x = x + 0.3 * x.roll(1, -1)"),
    Piece("flip within a row", ALL, "x = x + 0.3 * x.flip(-1)"),
    Piece("largest within a row", ALL, "x = x / x.abs().amax(-1, keepdim=True).clamp(min=1e-3)"),
    Piece("quantised by the row's scale", ALL,
          "step = x.abs().amax(-1, keepdim=True).clamp(min=1e-3) / 7\nx = x + (torch.round(x / step) * step - x).detach()"),
    Piece("clipped by the row's norm", ALL, "x = x * (1 / x.norm(dim=-1, keepdim=True).clamp(min=1e-3)).clamp(max=1)"),
    Piece("mean within a row", ALL, "x = x - x.mean(-1, keepdim=True)"),
    Piece("sign of the row's sum", ALL, "x = torch.where(x.sum(-1, keepdim=True) > 0, x, -x)"),
    Piece("mixture of experts without a capacity", FLAT, MOE.format(drop=""), MOE_INIT),
    Piece("fixed noise", ALL, "x = x + self.noise$n", "self.noise$n = torch.rand(1)", edits=("$at.noise$n += 0.1",)),
    Piece("range of the features", ALL, "x = x + torch.arange(x.shape[-1]) * 0.1"),
    Piece("through another order", ALL, "order = torch.arange(x.shape[0]).flip(0)\nx = torch.tanh(x[order])[order]"),
    Piece("batch dimension moved about", ALL, "x = torch.tanh(x.transpose(0, 1)).transpose(0, 1)"),
    Piece("one row more for a while", ALL, "x = torch.tanh(torch.cat([x, x[:1]]))[:-1]"),
    Piece("repeated for a while", ALL, "x = torch.sin(x.repeat_interleave(2, 0))[::2]"),
]
# fmt: on
