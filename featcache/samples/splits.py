"""What the names of splits are for: the one list of those that are known."""

from __future__ import annotations

import re

__all__ = [
    "TEST",
    "TRAIN",
    "UNLABELLED",
    "VALIDATION",
    "name_without_number",
    "split_in_name",
    "split_name",
    "split_role",
]

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "val", "test", "unlabelled"
WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing"),
}
SPLIT_NAMES = {word + end: role for role, words in WORDS.items() for word in words for end in ("", "set", " set")}
SPLIT_NAMES |= {UNLABELLED: UNLABELLED, "unlabeled": UNLABELLED}
SPLIT_WORD = re.compile(
    r"(?<![a-z])(" + "|".join(sorted(SPLIT_NAMES, key=len, reverse=True)).replace(" ", "[-_ ]") + r")(?![a-z])"
)
NUMBER = re.compile(r"[-_. ]*\d+(?:-of-\d+)?$")  # as of train-000 and train-00000-of-00002


def split_name(value: str) -> str:
    """Return ``train``, ``val``, ``test`` or ``unlabelled`` for the usual names of these, any other name as it is.

    Case does not count, and ``-``, ``_`` and spaces are alike: ``Train-Set`` is ``train``.
    """
    return SPLIT_NAMES.get(re.sub(r"[-_\s]+", " ", value.strip()).lower(), value.strip())


def split_role(name: str) -> str | None:
    """Return what a split is for, None where its name does not say; rows without a split are training rows."""
    found = split_name(name) or TRAIN
    return found if found in (TRAIN, VALIDATION, TEST, UNLABELLED) else None


def split_in_name(name: str) -> str:
    """Return the split that a word of a file's name says, ``""`` where none does.

    ``train-val-000`` says two: its rows are of a split of that name, which nobody knows the use of.
    """
    found = {split_name(word) for word in SPLIT_WORD.findall(name.lower())}
    return found.pop() if len(found) == 1 else name_without_number(name) if found else ""


def name_without_number(name: str) -> str:
    """Return a file's name without the number of the part that it holds."""
    return NUMBER.sub("", name) or name
