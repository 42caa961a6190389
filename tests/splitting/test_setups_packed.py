"""Networks that pack, crop or pad their sequences by a lengths input: each is cut, or refused with a way that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import featcache
from featcache.errors import SplitError

from .comparing import check, texts

LENGTHS = torch.tensor([6, 4, 5, 2, 6, 1] * 2)


def samples(ids: torch.Tensor, lengths: torch.Tensor) -> list[tuple[tuple[torch.Tensor, torch.Tensor], int]]:
    return [((row, length), number % 3) for number, (row, length) in enumerate(zip(ids, lengths, strict=True))]


class Packed(nn.Module):
    """The usual recurrent network over texts: packed, run, and padded again or read at its last step."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.emb, self.proj, self.fc = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.rnn = nn.LSTM(8, 8, batch_first=True)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = self.proj(self.emb(ids))
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        steps, (hidden, _) = self.rnn(packed)
        if self.padded:
            return self.fc(nn.utils.rnn.pad_packed_sequence(steps, batch_first=True)[0].sum(1))
        return self.fc(hidden[-1])


@pytest.mark.parametrize(("padded", "cut"), [(False, "proj"), (True, "proj"), (False, "rnn")])
def test_a_network_that_packs_its_sequences_is_cut_and_extracted(padded: bool, cut: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids, lengths = Packed(padded).eval(), texts(12, 0), torch.tensor([6, 4, 5, 2, 6, 1] * 2)
    made = check(model, cut, (ids[:4], lengths[:4]), (ids, lengths))
    data = [((row, length), number % 3) for number, (row, length) in enumerate(zip(ids, lengths, strict=True))]
    features = featcache.extract(model, data, tmp_path, cut=cut, batch_size=4)
    assert features.report.computed == 12
    featcache.train_head(made, features, epochs=1, device="cpu")


def test_packed_sequences_that_cross_a_cut_are_refused_with_cuts_that_work() -> None:
    torch.manual_seed(0)
    with pytest.raises(SplitError, match=r"no dimension of it is the batch.*that work: fc, proj, emb"):
        featcache.split(Packed(True).eval(), "rnn", (texts(4, 0), torch.tensor([6, 4, 5, 2])))


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_recurrent_layers_that_read_how_many_steps_are_packed_can_be_cut_behind(kind: type[nn.Module]) -> None:
    class Recurrent(Packed):
        def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            x = self.proj(self.emb(ids))
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.fc(self.rnn(packed)[1][-1])

    torch.manual_seed(0)
    model = Recurrent(False)
    model.rnn = kind(8, 8, batch_first=True)
    check(model.eval(), "rnn", (texts(4, 0), torch.tensor([6, 4, 5, 2])), (texts(5, 0), torch.tensor([1, 6, 6, 3, 2])))


class PacksBy(Packed):
    """Packs by lengths in another form than that of a tensor."""

    def __init__(self, form: Callable[[torch.Tensor], object]) -> None:
        super().__init__(padded=False)
        self.form = form

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        counts = self.form(lengths)
        x = self.proj(self.emb(ids))
        packed = nn.utils.rnn.pack_padded_sequence(x, counts, batch_first=True, enforce_sorted=False)
        return self.fc(self.rnn(packed)[1][0][-1])


def cut_short(lengths: torch.Tensor) -> list[int]:
    lengths = lengths.clone()
    counts = lengths.tolist()
    lengths.clamp_(max=3)
    return counts


@pytest.mark.parametrize("cut", ["proj", "rnn"])
@pytest.mark.parametrize(
    "form", [lambda lengths: lengths.cpu().tolist(), cut_short], ids=["a list", "a list, then changed"]
)
def test_lengths_that_are_made_a_list_before_the_cut_are_followed(
    form: Callable[[torch.Tensor], object], cut: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, ids = PacksBy(form).eval(), texts(12, 0)
    made = check(model, cut, (ids[:4], LENGTHS[:4]), (ids, LENGTHS))
    features = featcache.extract(model, samples(ids, LENGTHS), tmp_path, cut=cut, batch_size=4)
    again = featcache.extract(model, samples(ids, LENGTHS)[::-1], tmp_path, cut=cut, batch_size=5)
    assert (features.report.computed, again.report.reused) == (12, 12)
    if cut == "rnn":
        (stored,) = (each for each in features.numpy()[0].values() if each.ndim > 1)
        packed = nn.utils.rnn.pack_padded_sequence(
            model.proj(model.emb(ids)), LENGTHS, batch_first=True, enforce_sorted=False
        )
        assert torch.allclose(torch.as_tensor(stored)[:, 0], model.rnn(packed)[1][0][0], atol=1e-6)
    featcache.train_head(made, features, epochs=1, device="cpu")


def test_when_lengths_are_made_a_list_is_in_the_name_of_a_set() -> None:
    def early(lengths: torch.Tensor) -> list[int]:
        lengths = lengths.clone()
        counts = lengths.tolist()
        lengths.sub_(1).clamp_(min=1)
        lengths.tolist()
        return counts

    def late(lengths: torch.Tensor) -> list[int]:
        lengths = lengths.clone()
        lengths.tolist()
        lengths.sub_(1).clamp_(min=1)
        return lengths.tolist()

    torch.manual_seed(0)
    model = PacksBy(early).eval()
    names = []
    for form in (early, early, late):
        model.form = form
        names.append(featcache.split(model, "rnn", (texts(4, 0), LENGTHS[:4])).structure)
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (lambda lengths: lengths.numpy(), r"a value left torch on its way \(through numpy"),
        (lambda lengths: lengths.tolist().copy(), "as_tensor is given more Python values"),
    ],
    ids=["numpy", "another list"],
)
def test_lengths_that_leave_torch_in_another_form_are_refused_with_the_one_that_works(
    form: Callable[[torch.Tensor], object], reason: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(SplitError, match=rf"{reason}.*the list of its tolist\(\) as it is.*that work: proj, emb"):
        featcache.split(PacksBy(form).eval(), "rnn", (texts(4, 0), LENGTHS[:4]))
    check(PacksBy(torch.Tensor.tolist).eval(), "rnn", (texts(4, 0), LENGTHS[:4]))


def test_lengths_that_are_taken_one_by_one_are_refused_with_the_list_that_works() -> None:
    model = PacksBy(lambda lengths: [int(each) for each in lengths]).eval()
    with pytest.raises(SplitError, match=r"another path for another batch size.*take them all by tolist\(\)"):
        featcache.split(model, "rnn", (texts(4, 0), LENGTHS[:4]))
    model.form = torch.Tensor.tolist
    check(model, "rnn", (texts(4, 0), LENGTHS[:4]))


class LongestFirst(Packed):
    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.proj(self.emb(ids)), lengths.cpu(), batch_first=True)
        return self.fc(self.rnn(packed)[1][0][-1])


@pytest.mark.parametrize("cut", ["proj", "rnn"])
def test_a_network_that_takes_the_longest_sample_first_is_cut_and_fails_itself_on_other_batches(
    cut: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, ids = LongestFirst(False).eval(), texts(40, 0)
    lengths = (torch.arange(40) % 6 + 1).sort(descending=True).values
    made = check(model, cut, (ids[:4], lengths[:4]), (ids, lengths))
    for batch_size in (8, 20):
        store = tmp_path / str(batch_size)
        features = featcache.extract(model, samples(ids, lengths), store, cut=cut, batch_size=batch_size)
        assert features.report.computed == 40
    if cut == "rnn":  # packed before the cut: after it, rows come in any order
        featcache.train_head(made, features, epochs=1, device="cpu")
    with pytest.raises(RuntimeError, match="must be sorted in decreasing order"):
        featcache.extract(model, samples(ids, lengths)[::-1], tmp_path / "other", cut="rnn", batch_size=8)


def test_the_order_of_rows_still_matters_where_the_longest_sample_comes_first() -> None:
    class Centred(LongestFirst):
        def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            x = self.proj(self.emb(ids))
            packed = nn.utils.rnn.pack_padded_sequence(x - x[:1], lengths.cpu(), batch_first=True)
            return self.fc(self.rnn(packed)[1][0][-1])

    torch.manual_seed(0)
    with pytest.raises(SplitError, match="depend on the other rows"):
        featcache.split(Centred(False).eval(), "rnn", (texts(4, 0), torch.tensor([6, 5, 4, 2])))


class Cropped(Packed):
    """Crops its samples to the longest of the batch."""

    def __init__(self, number: bool, crops: bool = True) -> None:
        super().__init__(padded=False)
        self.number, self.crops = number, crops

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        longest = int(lengths.max()) if self.number else lengths.max()
        return super().forward(ids[:, :longest] if self.crops else ids, lengths)


@pytest.mark.parametrize("number", [False, True])
def test_a_crop_to_the_longest_sample_is_refused_at_once_where_it_crosses_the_cut(number: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Cropped(number).eval(), texts(12, 0)
    for cut in ("emb", "proj"):
        with pytest.raises(SplitError, match=r"another size where a sample is alone.*Leave the crop out.*work: rnn"):
            featcache.split(model, cut, (ids[:4], LENGTHS[:4]))
        check(Cropped(number, crops=False).eval(), cut, (ids[:4], LENGTHS[:4]), (ids, LENGTHS))
    made = check(model, "rnn", (ids[:4], LENGTHS[:4]), (ids, LENGTHS))
    check(model, "rnn", (ids[:4], LENGTHS[:4]), (ids, LENGTHS.clamp(max=4)))
    features = featcache.extract(model, samples(ids, LENGTHS), tmp_path, cut="rnn", batch_size=3)
    assert features.report.computed == 12
    featcache.train_head(made, features, epochs=1, device="cpu")


class PaddedSteps(nn.Module):
    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.rnn = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        total = x.shape[1] if self.whole else None
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=total)[0]


class PadsAgain(nn.Module):
    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.emb, self.encoder, self.fc = nn.Embedding(30, 8), PaddedSteps(whole), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.fc(self.encoder(self.emb(ids), lengths).sum(1))


@pytest.mark.parametrize(
    "other", [None, (texts(4, 0)[:, :4], torch.tensor([4, 4, 3, 2]))], ids=["one length", "varying"]
)
def test_what_is_padded_again_to_the_longest_sample_is_refused_and_to_its_whole_length_is_not(
    other: tuple[torch.Tensor, torch.Tensor] | None,
) -> None:
    torch.manual_seed(0)
    ids = texts(12, 0)
    given = (ids[:4], LENGTHS[:4])
    with pytest.raises(SplitError, match=r"another size where a sample is alone.*its total_length\..*that work: "):
        featcache.split(PadsAgain(False).eval(), "encoder", given, other)
    made = featcache.split(PadsAgain(True).eval(), "encoder", given, other)
    assert made.check(ids, LENGTHS) <= 1e-6
    assert made.frontier[0].shape == (6 if other is None else None, 8)


def test_texts_of_many_lengths_are_extracted_with_their_lengths_and_trained_without_a_mask(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Packed(True).eval(), texts(12, 0)
    data = [
        ({"ids": row[:length], "lengths": length}, number % 3)
        for number, (row, length) in enumerate(zip(ids, LENGTHS, strict=True))
    ]
    features = featcache.extract(model, data, tmp_path, cut="proj", batch_size=4)
    assert features.report.computed == 12
    example = {"ids": ids[:2], "lengths": torch.tensor([6, 3])}
    shorter = {"ids": ids[:2, :4], "lengths": torch.tensor([4, 2])}
    made = featcache.split(model, "proj", example, shorter)
    featcache.train_head(made, features, epochs=1, device="cpu")
    with pytest.raises(SplitError, match=r"as that of packed sequences does.*Cut before they are packed.*work: .*proj"):
        featcache.split(Packed(False).eval(), "rnn", example, shorter)
