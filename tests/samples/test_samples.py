"""One view of any dataset: ids, names, splits, targets and classes, and what the backbone gets to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featcache.errors import DataError, FingerprintError, UnreadableSampleError
from featcache.identity import content_id, identity
from featcache.progress import ProgressEvent
from featcache.samples import FileMemo, Samples

LETTERS = [b"a", b"b", b"c", b"d", b"e"]


class Letters:
    """Five items, and whatever attributes are given."""

    def __init__(self, **attributes: Any) -> None:
        self.items = [(letter, number) for number, letter in enumerate(LETTERS)]
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self.items[index]


class Declaring(Letters):
    """Says itself what its samples are."""

    def __init__(self, ids: list[Any], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.ids = ids

    def sample_id(self, index: int) -> Any:
        return self.ids[index]


def ids_of(samples: Samples) -> list[bytes]:
    return [row.tobytes() for row in samples.snapshot().ids]


def test_items_are_known_by_their_content_before_the_transform() -> None:
    expected = [content_id(letter) for letter in LETTERS]
    samples = Samples(Letters(), bytes.upper)
    assert ids_of(samples) == expected
    assert samples.input(1) == b"B"
    assert samples.raw(1) == (b"b", 1)
    assert samples.snapshot().targets.tolist() == [0, 1, 2, 3, 4]


def test_a_declared_id_of_sixteen_bytes_is_taken_as_it_is_and_any_other_is_hashed() -> None:
    given = [b"x" * 16, b"x" * 15, b"x" * 17, "x" * 16, 7]
    assert ids_of(Samples(Declaring(given))) == [given[0], *map(content_id, given[1:])]


def test_what_a_dataset_does_to_its_items_is_in_the_recipe_where_it_declares_ids() -> None:
    assert Samples(Letters()).decoding == {"item": "hashed as it is"}
    assert Samples(Letters(transform=bytes.upper)).decoding == {"item": "hashed as it is"}
    plain = Samples(Declaring([])).decoding
    assert plain == {"dataset": identity(Declaring)}
    for attribute in ("transform", "transforms"):
        found = Samples(Declaring([], **{attribute: bytes.upper})).decoding
        assert found == {**plain, attribute: identity(bytes.upper)}
    assert Samples(Declaring([], decoding="own")).decoding == "own"
    assert Samples(Letters(decoding={"size": 4})).decoding == {"size": 4}


def test_the_transform_the_augmentation_and_its_seed_have_identities() -> None:
    samples = Samples(Letters())
    assert (samples.transform_identity, samples.views_identity) == (None, None)
    other = samples.transformed(bytes.upper).augmented(bytes.lower, 3)
    assert other.transform_identity == identity(bytes.upper)
    assert other.views_identity == {"augment": identity(bytes.lower), "seed": 3}
    assert (samples.transform_identity, samples.views_identity) == (None, None)
    refused = samples.transformed(iter([1]).__next__).augmented(iter([1]).__next__)
    with pytest.raises(FingerprintError, match="the transform cannot"):
        _ = refused.transform_identity
    with pytest.raises(FingerprintError, match="the augmentation cannot"):
        _ = refused.views_identity


def test_the_same_samples_with_another_transform_are_hashed_once() -> None:
    samples = Samples(Letters())
    taken = samples.snapshot()
    samples.dataset.items[0] = (b"z", 9)
    assert samples.transformed(bytes.upper).augmented(bytes.lower).snapshot() is taken


def test_a_dataset_that_knows_all_its_ids_is_asked_with_the_memo() -> None:
    class Files(Letters):
        targets = (5, 6, 7)
        names = ("p", "q", "r")

        def __len__(self) -> int:
            return 3

        def sample_ids(self, memo: FileMemo | None) -> np.ndarray:
            self.memo = memo
            return np.arange(48, dtype=np.uint8).reshape(3, 16)

        def read(self, index: int) -> tuple[bytes, Any]:
            return bytes(16), lambda: self[index]

    memo, dataset = FileMemo(), Files()
    samples = Samples(dataset, name="files")
    assert samples.memo is None
    taken = samples.snapshot(memo)
    assert dataset.memo is samples.memo is memo
    assert (taken.dataset, list(taken.names), taken.targets.tolist()) == ("files", ["p", "q", "r"], [5, 6, 7])
    assert taken.ids.tobytes() == bytes(range(48))
    assert list(samples.positions()) == [0, 1, 2]


def test_names_splits_and_classes_come_from_the_dataset_where_they_fit() -> None:
    taken = Samples(Letters(names="vwxyz", splits=["s", "t", "t", "s", "s"], classes=(1, 2))).snapshot()
    assert (list(taken.names), list(taken.splits), taken.classes) == (list("vwxyz"), list("sttss"), ["1", "2"])
    taken = Samples(Letters(names="vwxy", splits=["s"])).snapshot()
    assert (list(taken.names), list(taken.splits), taken.classes) == (list("01234"), [""] * 5, None)


class Torn(Letters):
    """Of which the second item cannot be read."""

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        if index == 1:
            raise OSError("disk error")
        return super().__getitem__(index)


def test_what_cannot_be_read_is_left_out_with_its_name_and_split() -> None:
    samples = Samples(Torn(names="vwxyz", splits=list("abcde")))
    with pytest.raises(DataError, match="w of 'torn' cannot be read: disk error"):
        samples.snapshot()
    taken = samples.snapshot(skip_unreadable=True)
    assert (list(taken.names), list(taken.splits)) == (list("vxyz"), list("acde"))
    assert taken.targets.tolist() == [0, 2, 3, 4]
    assert list(samples.positions()) == [0, 2, 3, 4]
    assert [(each.position, each.name, each.reason) for each in samples.unreadable] == [(1, "w", "disk error")]


def test_positions_are_known_without_being_asked_for_a_snapshot_first() -> None:
    assert list(Samples(Letters()).positions()) == [0, 1, 2, 3, 4]


def test_a_dataset_without_items_or_of_unreadable_ones_alone_is_refused() -> None:
    empty, torn = Letters(), Torn()
    empty.items = []
    torn.items = []
    for dataset in (empty, torn):
        with pytest.raises(DataError, match="is empty"):
            Samples(dataset).snapshot()

    class AllTorn(Letters):
        def __getitem__(self, index: int) -> tuple[bytes, int]:
            raise OSError(f"no disk {index}")

    with pytest.raises(DataError, match="no sample of the dataset 'alltorn' can be read; the first: no disk 0"):
        Samples(AllTorn()).snapshot(skip_unreadable=True)


def test_what_is_no_dataset_or_gives_no_pairs_is_refused() -> None:
    for value in (iter([1]), {1}):
        with pytest.raises(DataError, match="map-style"):
            Samples(value)
    for item in ("ab", ("a",), ("a", 1, 2), {"a": 1, "b": 2}):
        dataset = Letters()
        dataset.items = [item]
        with pytest.raises(DataError, match="not \\(input, target\\)"):
            Samples(dataset).snapshot()
    dataset.items = [["a", 1]]
    assert Samples(dataset).raw(0) == ("a", 1)


def test_hashing_tells_how_far_it_is() -> None:
    events: list[ProgressEvent] = []
    Samples(Letters()).snapshot(progress=events.append)
    assert events == [ProgressEvent("hash", done, 5, "samples") for done in range(1, 6)]


@pytest.mark.parametrize(
    ("given", "name"),
    [({}, "letters"), ({"name": "own"}, "own"), ({"name": None}, "letters"), ({"name": ""}, "letters")],
)
def test_a_dataset_is_called_by_its_name_or_its_class(given: dict[str, Any], name: str) -> None:
    assert Samples(Letters(**given)).name == name
    assert Samples(Letters(**given), name="mine").name == "mine"


def test_a_class_name_becomes_one_that_a_folder_can_have() -> None:
    for called, name in (("Ä_b", "b"), ("-A.", "a"), ("Ä", "dataset"), ("N" * 70, "n" * 60)):
        assert Samples(type(called, (Letters,), {})()).name.strip("_") == name


@pytest.mark.parametrize(("count", "spread"), [(1, [0]), (2, [0, 1]), (8, list(range(8))), (15, list(range(0, 15, 2)))])
def test_things_are_tried_on_a_few_samples_from_all_over_the_dataset(count: int, spread: list[int]) -> None:
    assert Samples([("a", 0)] * count).spread() == spread


def test_a_sample_is_called_by_its_name_or_its_number() -> None:
    assert Samples(Letters()).label(3) == "item 3"
    assert Samples(Letters(names=[1, 2, 3, 4, 5])).label(3) == "4"


def items(*lengths: int) -> list[tuple[np.ndarray, int]]:
    return [(np.zeros((length, 2)), 0) for length in lengths]


def test_samples_are_ragged_where_their_lengths_differ_or_the_transform_says_so() -> None:
    assert Samples(items(3, 3, 4)).ragged is True
    assert Samples(items(3, 3)).ragged is False
    assert Samples([("a", 0), ("abc", 0)]).ragged is False
    assert Samples([(np.zeros(3), 0), ("abc", 0)]).ragged is False

    def declares(ragged: bool) -> Callable[[Any], Any]:
        def transform(value: Any) -> Any:
            return value

        transform.ragged = ragged  # type: ignore[attr-defined]
        return transform

    assert Samples(items(3, 3), declares(True)).ragged is True
    assert Samples(items(3, 4), declares(False)).ragged is False
    whole = Samples(items(3, 4))
    cut = whole.transformed(lambda value: value[:3])
    assert (whole.ragged, cut.ragged, whole.ragged) == (True, False, True)


def test_whether_samples_are_ragged_is_looked_at_once_and_past_what_cannot_be_read() -> None:
    class Counted(Torn):
        looked = 0

        def __getitem__(self, index: int) -> tuple[Any, int]:
            self.looked += 1
            super().__getitem__(index)
            return np.zeros(index + 1), 0

    dataset = Counted()
    samples = Samples(dataset)
    assert samples.ragged
    assert samples.ragged
    assert dataset.looked == 5


def test_a_view_is_augmented_before_the_transform_and_the_plain_one_is_not() -> None:
    samples = Samples(Letters(), bytes.upper).augmented(lambda letter: letter + b"-x")
    assert samples.input(2) == b"C"
    assert samples.seen(b"c", 1, b"id") == b"C-X"
    assert Samples(Letters()).augmented(lambda letter: letter + b"-x").seen(b"c", 2, b"id") == b"c-x"


class Ragged:
    """A transform that says that what it gives varies in length."""

    ragged = True

    def __call__(self, item: Any) -> Any:
        return item


def test_inputs_that_vary_in_length_are_refused_unless_the_transform_says_that_they_may() -> None:
    short, long, wide = np.zeros((2, 3)), np.zeros((5, 3)), np.zeros((2, 4))
    samples = Samples(Letters(), name="letters")
    for alike in ([], [short], [short, short], [short, wide], [(short, long), (short, long)]):
        samples.check_alike(alike)
    for unlike, said in (
        ([short, long, short], r"\(2,\), \(5,\)"),
        ([(short, short), (short, long)], r"\(2, 2\), \(2, 5\)"),
    ):
        with pytest.raises(
            DataError, match=f"some samples of 'letters' vary in length, .* lengths {said}. Let the transform"
        ):
            samples.check_alike(unlike)
    Samples(Letters(), Ragged()).check_alike([short, long])


def test_what_a_dataset_says_of_itself_is_repeated() -> None:
    said = ("3 files left out: 2 .heic, 1 hidden",)
    assert Samples(Letters(notes=said)).notes == list(said)
    assert Samples(Letters()).notes == []


@pytest.mark.parametrize("raised", [EOFError(), SyntaxError("broken PNG file"), RuntimeError("a\nb")])
def test_an_image_that_turns_out_damaged_when_it_is_decoded_is_unreadable_whatever_the_decoder_raises(
    raised: Exception,
) -> None:
    class Torn(Image.Image):
        def load(self) -> Any:
            raise raised

    good = Image.new("RGB", (4, 4))
    samples = Samples([(good, 0), (Torn(), 1)])
    with pytest.raises(DataError, match=r"item 1 of .* cannot be read: the image is damaged or unreadable \(.+\)"):
        samples.snapshot()
    assert len(samples.snapshot(skip_unreadable=True).ids) == 1
    with pytest.raises(UnreadableSampleError):
        samples.read(1)
