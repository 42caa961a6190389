"""Pieces that read a mask, lengths or a task beside ``x``, and ways from one layout to another."""

from __future__ import annotations

from .pieces import DUBIOUS, Piece

__all__ = ["POOLS", "SEQUENCES", "TASKS"]

SEQ, MASK = ("seq",), ("mask",)
QKV = "q, k, v = self.qkv$n(x).view(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)\n"
JOIN = ".transpose(1, 2).reshape(x.shape)"
QKV_INIT = "self.qkv$n = nn.Linear(8, 24)"
QKV_EDITS = ("$at.qkv$n.weight.data.view(-1)[0] += 0.3",)
ATTENTION = "self.attention$n = nn.MultiheadAttention(8, 2, dropout=$p, batch_first=True)"
IN_PROJ = (
    "$at.attention$n.in_proj_weight.data.view(-1)[0] += 0.3",
    "$at.attention$n.in_proj_weight.data.view(-1)[-1] += 0.3",
)
P = {"p": ("0.0", "0.2")}

# fmt: off
SEQUENCES = [
    Piece("multi-head attention", SEQ, "x = x + self.attention$n(x, x, x, key_padding_mask=~mask, need_weights=$need)[0]",
          ATTENTION,
          MASK, ("attention$n",), {**P, "need": ("False", "True")}, IN_PROJ, modes=True),
    Piece("attention, mask left out where full", SEQ,
          "if mask.all():\n    y = self.attention$n(x, x, x)[0]\nelse:\n"
          "    y = self.attention$n(x, x, x, key_padding_mask=~mask)[0]\n"
          "x = x + y", ATTENTION, MASK, ("attention$n",), P, IN_PROJ, modes=True),
    Piece("scaled dot-product attention", SEQ,
          QKV + "y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])\nx = x + y" + JOIN,
          QKV_INIT, MASK, ("qkv$n",), edits=QKV_EDITS),
    Piece("scaled dot-product attention, mask left out where full", SEQ,
          QKV + "keep = None if mask.all() else mask[:, None, None, :]\n"
          "y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)\nx = x + y" + JOIN,
          QKV_INIT, MASK, ("qkv$n",), edits=QKV_EDITS),
    Piece("attention by hand", SEQ,
          QKV + "scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~mask[:, None, None, :], float('-inf'))\n"
          "scores = F.dropout(scores.softmax(-1), $p, self.training)\nx = x + (scores @ v)" + JOIN,
          QKV_INIT, MASK, ("qkv$n",), P, QKV_EDITS, modes=True),
    Piece("causal attention", SEQ, QKV + "y = F.scaled_dot_product_attention(q, k, v, is_causal=True)\nx = x + y" + JOIN,
          QKV_INIT,
          (), ("qkv$n",), edits=QKV_EDITS),
    Piece("transformer layer", SEQ, "x = self.layer$n(x, src_key_padding_mask=~mask)",
          "self.layer$n = nn.TransformerEncoderLayer(8, 2, 16, dropout=$p, batch_first=True$more)", MASK, ("layer$n",),
          {**P, "more": ("", ", norm_first=True", ", activation='gelu'")},
          ("$at.layer$n.linear1.weight.data.view(-1)[0] += 0.3", "$at.layer$n.norm1.eps = 0.3"), modes=True),
    Piece("transformer, nested tensors", SEQ, "x = F.pad(y := self.stack$n(x, src_key_padding_mask=~mask),"
          " (0, 0, 0, x.shape[1] - y.shape[1]))\nx = x * mask[..., None]",
          "self.stack$n = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)", MASK,
          edits=("$at.stack$n.layers[0].linear1.weight.data.view(-1)[0] += 0.3",), modes=True, fact=DUBIOUS),
    Piece("recurrent layer", SEQ, "x = self.recurrent$n(x)[0]", "self.recurrent$n = nn.$kind(8, 8, batch_first=True)",
          (), ("recurrent$n",), {"kind": ("GRU", "LSTM")}, ("$at.recurrent$n.weight_ih_l0.data.view(-1)[0] += 0.3",)),
    Piece("packed recurrent layer", SEQ,
          "y = nn.utils.rnn.pack_padded_sequence(x, mask.sum(1)$counts, batch_first=True, enforce_sorted=False)\n"
          "x = nn.utils.rnn.pad_packed_sequence(self.recurrent$n(y)[0], batch_first=True, total_length=x.shape[1])[0]",
          "self.recurrent$n = nn.GRU(8, 8, batch_first=True)", MASK, choices={"counts": (".cpu()", ".tolist()")}, fact=DUBIOUS),
    Piece("convolution over time", SEQ, "x = self.conv$n((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)",
          "self.conv$n = nn.Conv1d(8, 8, 3, padding=1)", MASK, ("conv$n",), edits=("$at.conv$n.weight.data.view(-1)[0] += 0.1",)),
    Piece("batch norm over time", SEQ, "x = self.norm$n(x.transpose(1, 2)).transpose(1, 2)", "self.norm$n = nn.BatchNorm1d(8)",
          inner=("norm$n",), modes=True, ragged=False, edits=("$at.norm$n.eps = 0.3",)),
    Piece("positions", SEQ, "x = x + self.places$n(torch.arange(x.shape[1]))", "self.places$n = nn.Embedding(16, 8)",
          edits=("$at.places$n.weight.data.view(-1)[0] += 0.3",)),
    Piece("positions, sliced", SEQ, "x = x + self.places$n[: x.shape[1]]", "self.places$n = nn.Parameter(torch.randn(16, 8))",
          edits=("$at.places$n.data.view(-1)[0] += 0.3",)),
    Piece("positions counted by the mask", SEQ, "x = x + self.places$n((mask.cumsum(1) - 1).clamp(min=0))",
          "self.places$n = nn.Embedding(16, 8)", MASK, ("places$n",)),
    Piece("sinusoids made when needed", SEQ,
          "if self.table$n is None or self.table$n.shape[0] < x.shape[1]:\n"
          "    self.table$n = torch.sin(torch.arange(float(x.shape[1]))[:, None] * torch.linspace(0.1, 1, 8))\n"
          "x = x + self.table$n[: x.shape[1]]", "self.table$n = None"),
    Piece("padding set to zero", SEQ, "x = x * mask[..., None]", needs=MASK),
    Piece("padding set to zero in place", SEQ, "x = x.clone()\nx[~mask] = 0.0", needs=MASK),
    Piece("padding set to zero where there is any", SEQ, "if (~mask).any():\n    x = x.masked_fill(~mask[..., None], 0.0)",
          needs=MASK),
    Piece("crop and pad", SEQ,
          "length = int(mask.sum(1).max())\ny = self.linear$n(x[:, :length])\n"
          "x = F.pad(y, (0, 0, 0, x.shape[1] - length)) * mask[..., None]", "self.linear$n = nn.Linear(8, 8)", MASK,
          edits=("$at.linear$n.weight.data.view(-1)[0] += 0.1",)),
    Piece("crop", SEQ, "length = int(mask.sum(1).max())\nx, mask = x[:, :length], mask[:, :length]", needs=MASK, loose=True,
          fact=DUBIOUS),
    Piece("tokens without padding alone", SEQ, "y = torch.zeros_like(x)\ny[mask] = self.linear$n(x[mask])\nx = y",
          "self.linear$n = nn.Linear(8, 8)", MASK, fact=DUBIOUS),
    Piece("branch on the length", SEQ, "if x.shape[1] > 6:\n    x = torch.cat([torch.tanh(x[:, :6]), torch.tanh(x[:, 6:])], 1)\n"
          "else:\n    x = torch.tanh(x)"),
    Piece("sums over time", SEQ, "x = x.cumsum(1) * 0.2"),
    Piece("mean of the row's own tokens", SEQ,
          "x = x - (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]", needs=MASK),
]
TASKS = [
    Piece("weights of the task", ("vec",), "x = torch.einsum('bi,bij->bj', x, self.tables$n[task])",
          "self.tables$n = nn.Parameter(torch.randn(3, 8, 8) * 0.4)", ("task",),
          edits=("$at.tables$n.data.view(-1)[0] += 0.5", "$at.tables$n.data.view(-1)[-1] += 0.5")),
    Piece("a plain table of the task", ("vec",), "x = x + self.table$n[task]", "self.table$n = torch.randn(3, 8)", ("task",),
          edits=("$at.table$n[0, 0] += 0.5",)),
    Piece("embedding of the task", ("vec",), "x = x * self.task$n(task)", "self.task$n = nn.Embedding(3, 8)", ("task",),
          ("task$n",)),
    Piece("otherwise for one task", ("vec",), "x = torch.where((task == 1)[:, None], x * 2, x)", needs=("task",)),
    Piece("otherwise where any row is of a task", ("vec",), "if (task == 1).any():\n    x = x + 2 * (task == 1)[:, None]",
          needs=("task",)),
    Piece("one layer a task", ("vec",),
          "y = torch.zeros_like(x)\nfor number in task.unique().tolist():\n"
          "    y[task == number] = self.layers$n[number](x[task == number])\nx = y",
          "self.layers$n = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))", ("task",), fact=DUBIOUS),
]
POOLS = [
    Piece("mean over places", ("map",), "x = x.mean((2, 3))"),
    Piece("pooling module", ("map",), "x = self.pool$n(x).flatten(1)", "self.pool$n = nn.AdaptiveAvgPool2d(1)",
          inner=("pool$n",)),
    Piece("largest over places", ("map",), "x = x.amax((2, 3))"),
    Piece("masked mean", SEQ, "x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)", needs=MASK),
    Piece("masked largest", SEQ, "x = x.masked_fill(~mask[..., None], -1e4).amax(1)", needs=MASK),
    Piece("first token", SEQ, "x = x[:, 0]"),
    Piece("last token", SEQ, "x = x[torch.arange(x.shape[0]), mask.sum(1) - 1]", needs=MASK),
    Piece("pooling by attention", SEQ,
          "weights = (x @ self.query$n).masked_fill(~mask, float('-inf')).softmax(1)\nx = (weights[..., None] * x).sum(1)",
          "self.query$n = nn.Parameter(torch.randn(8))", MASK, edits=("$at.query$n.data[0] += 0.5",)),
    Piece("mean of those that need it", SEQ,
          "x = x.mean(1) if mask.all() else (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)", needs=MASK),
]
# fmt: on
