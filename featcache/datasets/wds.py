"""``wds:PATTERN``: tar files in webdataset's layout, read at random: members of one base name are one sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UnreadableSampleError, UsageError, printable
from ..samples import FileMemo, name_without_number, split_in_name
from .media import EncodedSamples, encoded, kind_of
from .options import parse_options
from .patterns import find_files
from .targets import TARGET_OPTIONS, Targets, encode_targets, no_targets, target_of

__all__ = ["TarSamples", "open_wds"]

OPTIONS = ("input", *TARGET_OPTIONS)
TARGETS = ("cls", "label", "target", "cls.txt", "label.txt", "json")
NO_TARGET = "none"
MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]+)")  # hidden files belong to no sample
JSON_FIELDS = ("label", "cls", "target", "class")

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class _Sample:
    """The members of one sample: extension -> (offset, size) in its tar file."""

    tar: Path
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, extension: str) -> bytes:
        offset, size = self.members[extension]
        with self.tar.open("rb") as file:
            file.seek(offset)
            return file.read(size)


class TarSamples(EncodedSamples):
    """Samples of tar files, whose headers are read once, when they are opened. Items are as those of ``folder:``.

    Splits come from the names of the tar files, such as ``train-000.tar``. Beside such files, one whose name says no usual split
    (``eval-000.tar``) is of a split called by its name.
    """

    def __init__(
        self,
        spec: str,
        name: str,
        samples: list[_Sample],
        inputs: list[str],
        options: dict[str, str],
        others: list[str],
    ) -> None:
        self.spec = spec
        self.name = name
        self._samples = samples
        self._inputs = inputs
        self.kind = str(kind_of(f".{inputs[0]}"))
        tars = list(dict.fromkeys(sample.tar for sample in samples))
        stems = {tar: tar.stem if len({each.stem for each in tars}) == len(tars) else str(tar) for tar in tars}
        self.names = [f"{stems[sample.tar]}/{sample.key}" for sample in samples]
        splits = {tar: split_in_name(tar.stem) or split_in_name(tar.parent.name) for tar in tars}
        unsaid = [tar for tar, split in splits.items() if not split]
        if len(unsaid) < len(tars):  # held-out rows, perhaps: a split of their own is not trained on unasked
            splits |= {tar: name_without_number(tar.stem) for tar in unsaid}
        found = _targets(samples, spec, options)
        self.targets, self.classes, self.notes = found.values, found.classes, found.notes
        if others:
            said = "member" if len(others) == 1 else "members"
            self.notes.append(
                f"{len(others):,} {said} left out, not called KEY.EXTENSION, the first: {printable(others[0])}"
            )
        self.splits = found.splits([splits[sample.tar] for sample in samples])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.read(index)[1](), target_of(self.targets, index)

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a member's content, and a function that decodes what was read."""
        where = f"{self._samples[index].tar}: {self._samples[index].key}.{self._inputs[index]}"
        try:
            content = self._read(index)
        except OSError as error:
            raise UnreadableSampleError(f"{where} cannot be read any more ({error})") from error
        return encoded(self.kind, content, where, self.pixels)

    def sample_ids(self, memo: FileMemo | None = None) -> Array:
        """Return the ids of the members' contents (samples, 16), which files of this content have, too."""
        memo = memo or FileMemo()
        ids = np.zeros((len(self), 16), dtype=np.uint8)
        rows_of: dict[Path, list[int]] = {}
        for row, sample in enumerate(self._samples):
            rows_of.setdefault(sample.tar, []).append(row)
        for tar, rows in rows_of.items():
            parts = [":".join(map(str, self._samples[row].members[self._inputs[row]])) for row in rows]
            ids[rows] = memo.part_ids(
                [str(tar.resolve())],
                parts,
                lambda place, rows=rows: self._read(rows[place]),  # type: ignore[misc]
            )
        return ids

    def _read(self, row: int) -> bytes:
        return self._samples[row].read(self._inputs[row])


def open_wds(argument: str, name: str) -> TarSamples:
    """Return the samples of tar files: ``PATTERN[?input=EXTENSION][&target=EXTENSION]``, ``target=json.FIELD`` for a field.

    Raises ``DataError`` for files that are not plain tar files, and for samples that lack a member.
    """
    place, options = parse_options(argument, "wds", OPTIONS)
    if "://" in place or place.startswith("pipe:"):
        raise UsageError(f"wds: reads local tar files at random, not {place!r}: fetch them first.")
    samples: list[_Sample] = []
    others: list[str] = []
    for tar in find_files(place):
        samples += _index(tar, others)
    if not samples:
        raise DataError(f"{place} holds no samples: no member is called KEY.EXTENSION.")
    return TarSamples(f"wds:{argument}", name, samples, _choose_inputs(samples, options.get("input")), options, others)


def _index(tar: Path, others: list[str]) -> list[_Sample]:
    """Return the samples of a tar file by its headers alone; files in it that belong to none are added to ``others``."""
    found: dict[str, _Sample] = {}
    size = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                named = MEMBER.fullmatch(member.name.removeprefix("./"))
                if not member.isreg() or named is None:
                    others += [] if member.isdir() else [f"{tar.name}: {member.name}"]
                    continue
                if member.issparse() or member.offset_data + member.size > size:
                    raise DataError(f"{tar} is cut off, or sparse, at its member {member.name}: write it again.")
                sample = found.setdefault(named["key"], _Sample(tar, named["key"]))
                if sample.members.setdefault(named["extension"], (member.offset_data, member.size)) != (
                    member.offset_data,
                    member.size,
                ):
                    raise DataError(f"{tar} holds the member {member.name} twice: give each sample a name of its own.")
    except tarfile.TarError as error:
        packed = (
            " It looks compressed: unpack it, since compressed files cannot be read at random." if _packed(tar) else ""
        )
        raise DataError(f"{tar} is damaged, or no tar file ({error}).{packed}") from error
    except OSError as error:
        raise DataError(f"{tar} cannot be read: {error.strerror}.") from error
    return list(found.values())


def _packed(tar: Path) -> bool:
    with tar.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _choose_inputs(samples: list[_Sample], asked: str | None) -> list[str]:
    """Return the extension of each sample's input: one that was asked for, else its only image, sound or text."""
    every = sorted({extension for sample in samples for extension in sample.members})
    kinds = {extension: kind_of(f".{extension}") for extension in every}
    if asked is not None:
        wanted = asked.split(",")
        if not any(extension in every for extension in wanted) or len({kinds.get(each) for each in wanted}) > 1:
            raise DataError(
                f"no samples of one kind are called like input={asked}. The members are: {', '.join(every)}."
            )
        if kinds[next(each for each in wanted if each in every)] is None:
            raise DataError(f"input={asked} is not an image, sound or text that featcache reads.")
    else:
        kind = next((kind for kind in ("image", "sound", "text") if kind in kinds.values()), None)
        wanted = [extension for extension in every if kinds[extension] == kind and kind is not None]
    chosen = []
    for sample in samples:
        fitting = [extension for extension in wanted if extension in sample.members]
        if len(fitting) != 1:
            found = f"{len(fitting)} inputs ({', '.join(fitting)})" if fitting else "no input"
            raise DataError(
                f"{sample.tar} holds {found} for the sample {sample.key!r}, whose members are "
                f"{', '.join(sorted(sample.members))}. Add ?input=EXTENSION to say which is the input."
            )
        chosen.append(fitting[0])
    return chosen


def _targets(samples: list[_Sample], spec: str, options: dict[str, str]) -> Targets:
    asked = options.get("target")
    if asked == NO_TARGET:
        return no_targets(len(samples))
    every = {extension for sample in samples for extension in sample.members}
    chosen = asked or next((extension for extension in TARGETS if extension in every), None)
    if chosen is None:
        raise DataError(
            f"{spec} has no members that are called like targets ({', '.join(TARGETS)}); it has {', '.join(sorted(every))}. "
            f"Add target=EXTENSION, or target={NO_TARGET} for samples without targets."
        )
    extension, _, path = chosen.partition(".") if chosen.partition(".")[0] == "json" else (chosen, "", "")
    values: list[str | None] = []
    for sample in samples:
        if extension not in sample.members:
            raise DataError(
                f"{sample.tar} holds no {extension} for the sample {sample.key!r}, only {', '.join(sorted(sample.members))}. "
                "Name another with target=EXTENSION."
            )
        content = sample.read(extension)
        values.append(_field(content, path, sample) if extension == "json" else _text(content, sample, extension))

    def where(row: int) -> str:
        return f"{samples[row].tar}: {samples[row].key}.{extension}"

    return encode_targets([values], [chosen], where, options)


def _text(content: bytes, sample: _Sample, extension: str) -> str:
    try:
        return content.decode("utf-8-sig").rstrip("\r\n")  # a file's last line ends so, and that is not its label
    except UnicodeDecodeError as error:
        raise DataError(f"{sample.tar}: {sample.key}.{extension} is not text in UTF-8 ({error}).") from error


def _field(content: bytes, path: str, sample: _Sample) -> str | None:
    try:
        value: Any = json.loads(content)
    except ValueError as error:
        raise DataError(f"{sample.tar}: {sample.key}.json is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise DataError(
            f'{sample.tar}: {sample.key}.json is {str(value)[:40]!r}, not an object with fields: write {{"label": …}}, or name '
            "another member with target=EXTENSION."
        )
    names: Iterable[str] = path.split(".") if path else [next((each for each in JSON_FIELDS if each in value), "")]
    for name in names:
        if not isinstance(value, dict) or name not in value:
            there = ", ".join(value) if isinstance(value, dict) else type(value).__name__
            raise DataError(
                f"{sample.tar}: {sample.key}.json has no field {name or 'label'!r}; it has {there}. "
                "Name it with target=json.FIELD."
            )
        value = value[name]
    return None if value is None else str(value)
