"""Many linear heads in one pass."""

from __future__ import annotations

import pytest
import torch

import featcache
from featcache import UsageError

GRID = [
    {"learning_rate": rate, "weight_decay": decay, "seed": seed}
    for rate in (0.003, 0.1)
    for decay in (0.0, 0.3)
    for seed in (0, 5)
]


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "sgd", "warmup_epochs": 1, "label_smoothing": 0.1}, {"validation": 0.0}]
)
def test_each_of_many_heads_equals_the_one_that_is_trained_alone(made, features, options) -> None:
    heads = featcache.train_heads(made, features, GRID, epochs=4, batch_size=16, **options)
    for entry, head in zip(GRID, heads, strict=True):
        alone = featcache.train_head(made, features, head="linear", epochs=4, batch_size=16, **options, **entry)
        for name, value in alone.layers.state_dict().items():
            assert torch.allclose(head.layers.state_dict()[name], value, atol=1e-5), (entry, name)
        assert head.options == alone.options
        assert head.metrics == alone.metrics or head.metrics.log_loss == pytest.approx(alone.metrics.log_loss, abs=1e-4)
        for mine, theirs in zip(head.history, alone.history, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, abs=1e-4)
            assert mine.learning_rate == pytest.approx(theirs.learning_rate)


def test_what_would_part_the_heads_is_refused(made, features) -> None:
    with pytest.raises(UsageError, match="epochs"):
        featcache.train_heads(made, features, [{"epochs": 3}])
    with pytest.raises(UsageError, match="linear"):
        featcache.train_heads(made, features, [{}], head="suffix")
    with pytest.raises(UsageError, match="patience"):
        featcache.train_heads(made, features, [{}], patience=2)
    assert featcache.train_heads(made, features, []) == []
