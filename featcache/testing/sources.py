"""What sources of backbones and of data promise."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np

from ..backbones import backbone_identity, load_backbone
from ..datasets import open_dataset
from ..errors import FeatCacheError
from ..identity import content_id, digest
from ..samples import UNLABELLED, split_role

__all__ = ["BackboneSourceContract", "DatasetSourceContract"]

LOOKED_AT = 20


class DatasetSourceContract:
    """What every data source promises; ``spec`` opens one of its datasets, of a few samples at least."""

    spec = ""
    nonsense = ""
    """A specification of this source that leads nowhere; not checked where it is empty."""
    torch_free = True
    """Whether opening and hashing load no torch, as status and the like promise."""

    def test_all_that_is_said_of_samples_is_aligned(self) -> None:
        """Names are unique; targets, splits and ids have one entry a sample; targets are numbers of classes."""
        dataset = open_dataset(self.spec)
        count = len(dataset)
        assert count > 0
        assert len(dataset.names) == len(set(dataset.names)) == count
        assert len(dataset.targets) == len(dataset.splits) == count
        assert all(isinstance(each, str) for each in [*dataset.names[:LOOKED_AT], *set(dataset.splits), dataset.name])
        assert dataset.spec == self.spec
        if dataset.classes is not None:
            assert len(dataset.classes) == len(set(dataset.classes))
            labelled = np.array([split_role(split) != UNLABELLED for split in dataset.splits])
            assert set(np.unique(dataset.targets[labelled]).tolist()) <= set(range(len(dataset.classes)))

    def test_items_are_pairs_that_do_not_change(self) -> None:
        """Each item is (input, target), equal when it is fetched again, with the target that was said."""
        dataset = open_dataset(self.spec)
        for position in range(min(len(dataset), LOOKED_AT)):
            item, target = dataset[position]
            assert np.array_equal(target, dataset.targets[position])
            assert content_id(item) == content_id(dataset[position][0])

    def test_ids_tell_samples_apart_by_content(self) -> None:
        """Ids are 16 bytes each, the same for another opening, and equal only for equal items."""
        dataset = open_dataset(self.spec)
        ids = dataset.sample_ids(None)
        assert ids.dtype == np.uint8
        assert ids.shape == (len(dataset), 16)
        assert np.array_equal(ids, open_dataset(self.spec).sample_ids(None))
        items: dict[bytes, bytes] = {}
        for position in range(min(len(dataset), LOOKED_AT)):
            content = content_id(dataset[position][0])
            assert items.setdefault(ids[position].tobytes(), content) == content

    def test_what_is_read_has_the_listed_id_and_is_the_item(self) -> None:
        """Reading a sample gives the id that listing gave, and the item of what was read."""
        dataset = open_dataset(self.spec)
        ids = dataset.sample_ids(None)
        for position in range(min(len(dataset), LOOKED_AT)):
            found, item = dataset.read(position)
            assert found == ids[position].tobytes()
            assert content_id(item()) == content_id(dataset[position][0])

    def test_it_goes_to_worker_processes_and_into_a_recipe(self) -> None:
        """A dataset pickles, and what it says of decoding is JSON."""
        dataset = open_dataset(self.spec)
        again = pickle.loads(pickle.dumps(dataset))
        assert list(again.names) == list(dataset.names)
        assert content_id(again[0][0]) == content_id(dataset[0][0])
        assert json.loads(json.dumps(dataset.decoding)) == dataset.decoding

    def test_opening_and_hashing_load_no_torch(self) -> None:
        """`featcache status` is quick, because listing samples loads no torch."""
        if self.torch_free:
            _run_without_torch(
                f"from featcache.datasets import open_dataset; open_dataset({self.spec!r}).sample_ids(None)"
            )

    def test_what_leads_nowhere_is_refused_in_one_line(self) -> None:
        """A specification that leads nowhere raises one of featcache's errors."""
        if self.nonsense:
            _refused(lambda: open_dataset(self.nonsense))


class BackboneSourceContract:
    """What every backbone source promises; ``spec`` and ``weights`` load one of its networks."""

    spec = ""
    weights: str | None = None
    nonsense = ""
    """A specification of this source that leads nowhere; not checked where it is empty."""
    sized = True
    """Whether the transform that belongs to the backbone can be had for another image size."""

    def test_it_loads_the_same_network_in_evaluation_mode_each_time(self) -> None:
        """Loading leaves torch's random numbers alone, and untrained layers come out the same."""
        import torch

        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        backbone = load_backbone(self.spec, self.weights)
        assert torch.equal(torch.rand(1), expected)
        assert backbone.spec == self.spec
        assert not any(module.training for module in backbone.model.modules())
        again = load_backbone(self.spec, self.weights).model.state_dict()
        for name, value in backbone.model.state_dict().items():
            assert torch.equal(value, again[name]), name

    def sample(self) -> Any:
        """Return a sample that the backbone's transform takes; an image, where this is not overridden."""
        from PIL import Image

        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8))

    def test_its_transform_makes_what_the_network_takes(self) -> None:
        """Images become float tensors (channels, height, width), other samples dicts of tensors, which the network takes."""
        import torch
        from torch.utils.data import default_collate

        backbone = load_backbone(self.spec, self.weights)
        if backbone.make_transform is None:
            return
        transform, sample = backbone.make_transform(None), self.sample()
        made = transform(sample)
        assert content_id(backbone.make_transform(None)(sample)) == content_id(made)
        assert digest(backbone.make_transform(None)) == digest(pickle.loads(pickle.dumps(transform)))
        batch = getattr(transform, "collate", default_collate)([made, made])
        with torch.no_grad():
            if isinstance(made, dict):
                assert all(isinstance(value, torch.Tensor) for value in made.values())
                backbone.model(**batch)
                return
            backbone.model(batch)
        assert isinstance(made, torch.Tensor)
        assert made.dtype == torch.float32
        assert made.ndim == 3
        if self.sized:
            assert tuple(backbone.make_transform(48)(sample).shape[1:]) == (48, 48)

    def test_its_identity_costs_nothing_and_stays(self) -> None:
        """The identity is JSON, equal when it is asked again, and had without torch; None says it cannot be known."""
        found = backbone_identity(self.spec, self.weights)
        assert json.loads(json.dumps(found)) == backbone_identity(self.spec, self.weights)
        if found is not None:
            _run_without_torch(
                f"from featcache.backbones import backbone_identity; backbone_identity({self.spec!r}, {self.weights!r})"
            )

    def test_what_leads_nowhere_is_refused_in_one_line(self) -> None:
        """A name that leads nowhere raises one of featcache's errors."""
        if self.nonsense:
            _refused(lambda: load_backbone(self.nonsense))


def _refused(run: Any) -> None:
    try:
        run()
    except FeatCacheError as error:
        said = str(error)
    else:
        raise AssertionError("this should have been refused")
    assert said.strip()
    assert "\n" not in said


def _run_without_torch(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; sys.exit(3 if 'torch' in sys.modules else 0)"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 3, "torch was loaded"
    assert done.returncode == 0, done.stderr
