"""What the names of splits are for: the one list of those that are known."""

from __future__ import annotations

import re

__all__ = ["SPLIT_NAMES", "TEST", "TRAIN", "UNLABELLED", "VALIDATION", "split_name", "split_role"]

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "val", "test", "unlabelled"
WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing"),
}
SPLIT_NAMES = {word + end: role for role, words in WORDS.items() for word in words for end in ("", "set", " set")}
SPLIT_NAMES |= {UNLABELLED: UNLABELLED, "unlabeled": UNLABELLED}


def split_name(value: str) -> str:
    """Return ``train``, ``val``, ``test`` or ``unlabelled`` for the usual names of these, any other name as it is.

    Case does not count, and ``-``, ``_`` and spaces are alike: ``Train-Set`` is ``train``.
    """
    return SPLIT_NAMES.get(re.sub(r"[-_\s]+", " ", value.strip()).lower(), value.strip())


def split_role(name: str) -> str | None:
    """Return what a split is for, None where its name does not say; rows without a split are training rows."""
    found = split_name(name) or TRAIN
    return found if found in (TRAIN, VALIDATION, TEST, UNLABELLED) else None
