"""Encoded samples: which files are images and which sounds, and how their bytes become items."""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..errors import MissingDependencyError, UnreadableSampleError
from ..identity import encoded_id, is_special
from ..samples import AskedScale
from .pixels import Pixels

if TYPE_CHECKING:
    import torch

__all__ = [
    "HEIF",
    "IMAGES",
    "LOOKED_FOR",
    "EncodedSamples",
    "decode",
    "encoded",
    "kind_of",
    "needs_heif",
    "open_media",
    "read_media",
]

# Every format of still pictures that Pillow reads. Not here: what has no shades of 8 or 16 bits (.fits, .pfm), videos (.fli),
# what Pillow drops (.im), and extensions that mostly mean something else (.pcd are point clouds, .gbr circuit boards, .vst
# drawings).
IMAGES = (
    *(
        ".jpg",
        ".jpeg",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
        ".bmp",
        ".gif",
        ".jpe",
        ".jfif",
        ".mpo",
        ".apng",
        ".avif",
        ".avifs",
    ),
    *(
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpc",
        ".jpf",
        ".jpx",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".dib",
        ".tga",
        ".icb",
        ".vda",
        ".ico",
    ),
    *(
        ".icns",
        ".cur",
        ".pcx",
        ".dcx",
        ".psd",
        ".qoi",
        ".dds",
        ".blp",
        ".ftc",
        ".ftu",
        ".sgi",
        ".rgb",
        ".rgba",
        ".bw",
        ".ras",
    ),
    *(".pxr", ".xbm", ".xpm", ".msp"),
)
HEIF = (".heic", ".heif", ".hif")  # images where the package pillow-heif is installed
SOUNDS = (".wav", ".flac")
TEXTS = (".txt",)
KIND_OF = {
    extension: kind
    for kind, extensions in (("image", IMAGES), ("sound", SOUNDS), ("text", TEXTS))
    for extension in extensions
}
LOOKED_FOR = f"looked for {', '.join(IMAGES[:6])} and {len(IMAGES) - 6} more kinds of images, {' and '.join(SOUNDS)}"
DECODING: dict[str, dict[str, Any]] = {
    # wav and flac hold samples as they are, so every decoder gives the same ones.
    "sound": {"decoder": "samples", "dtype": "float32 of full scale", "channels": "mean"},
    "text": {"decoder": "text"},
}


class EncodedSamples:
    """What datasets of encoded samples have in common: the ``kind`` of the samples, and how images become pixels."""

    kind: str
    names: Sequence[str]
    pixels: Pixels | None = Pixels()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'spec', self.kind)!r}, {len(self.names)} samples)"

    @property
    def decoding(self) -> dict[str, Any]:
        """How a sample's bytes become its item, as JSON-able values."""
        return (self.pixels or Pixels()).described() if self.kind == "image" else DECODING[self.kind]

    def scaled_for(self, transform: Callable[[Any], Any]) -> Any:
        """Return the same samples, whose images are decoded as small as a transform allows, if that was asked for."""
        return self if self.pixels is None or self.pixels.decoding != "scaled" else self.scaled(transform)

    def scaled(self, transform: Callable[[Any], Any]) -> Any:
        """Return the same samples, whose images are decoded as small as a transform allows; None for other samples."""
        if self.pixels is None or self.kind != "image":
            return None
        return self._with(replace(self.pixels, decoding="scaled", scale_of=AskedScale(transform)))

    def whole(self) -> Any:
        """Return the same samples, whose images are decoded whole."""
        return self._with(replace(self.pixels or Pixels(), decoding="exact", scale_of=None))

    def _with(self, pixels: Pixels) -> Any:
        other = copy.copy(self)
        other.pixels = pixels
        return other


def kind_of(name: str) -> str | None:
    """Return whether a file's name says ``image``, ``sound`` or ``text``; None for others."""
    extension = name[name.rfind(".") :].lower()
    return KIND_OF.get(extension) or ("image" if extension in HEIF and _heif_is_there() else None)


def needs_heif(name: str) -> str:
    """Return what to install for a file, if it is an image that needs a package which is not there, else an empty text."""
    is_heif = name[name.rfind(".") :].lower() in HEIF
    return " (to read it: pip install 'featcache[heif]')" if is_heif and not _heif_is_there() else ""


def _heif_is_there() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def open_media(kind: str, path: Path, pixels: Pixels | None = None) -> Any:
    """Return the item in a file; raises ``UnreadableSampleError`` for one that is damaged or not there."""
    return decode(kind, _content(path), path, pixels)


def read_media(kind: str, path: Path, pixels: Pixels | None = None) -> tuple[bytes, Callable[[], Any]]:
    """Return the id of a file's content, and a function that decodes what was read, as ``SourceDataset.read`` does."""
    return encoded(kind, _content(path), path, pixels)


def encoded(kind: str, content: bytes, where: object, pixels: Pixels | None = None) -> tuple[bytes, Callable[[], Any]]:
    """Return the id of some content, and a function that decodes it, as ``SourceDataset.read`` does."""
    return encoded_id(content), partial(decode, kind, content, where, pixels)


def _content(path: Path) -> bytes:
    if is_special(path):
        raise UnreadableSampleError(f"{path} is a pipe, a socket or a device, not a file")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableSampleError(f"{path} is not there (any more)") from error
    except OSError as error:
        raise UnreadableSampleError(f"{path} is damaged or unreadable ({error})") from error


def decode(kind: str, content: bytes, where: object, pixels: Pixels | None = None) -> Any:
    """Return a PIL image in RGB, a sound as (float32 tensor (samples,), sample rate), or a text.

    Raises ``UnreadableSampleError`` for what is damaged.
    """
    if kind == "image":
        return (pixels or Pixels()).image(content, where)
    if kind == "sound":
        return _sound(io.BytesIO(content), where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableSampleError(f"{where} is not text in UTF-8 ({error})") from error


def _sound(file: BinaryIO, where: object) -> tuple[torch.Tensor, int]:
    import torch

    start = file.read(4)
    file.seek(0)
    plain = _wav(file, where) if start in (b"RIFF", b"RIFX") else None
    samples, rate = _other_sound(file, where) if plain is None else plain
    if not len(samples):
        raise UnreadableSampleError(f"{where} holds no sound: it has 0 samples")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32)), int(rate)


def _wav(file: BinaryIO, where: object) -> tuple[np.ndarray[Any, Any], int] | None:
    """Return the samples of a wav file, (samples,) or (samples, channels), None for an encoding that scipy does not know."""
    import warnings

    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of notes that it does not know
            rate, samples = wavfile.read(file)
    except ValueError as error:
        if "Unknown wave file format" in str(error):
            file.seek(0)
            return None
        raise UnreadableSampleError(f"{where} is damaged, or no wav file ({_line(error)})") from error
    except Exception as error:  # scipy raises whatever the damage leads to
        raise UnreadableSampleError(f"{where} is damaged, or no wav file ({_line(error)})") from error
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128, rate
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(-int(np.iinfo(samples.dtype).min)), rate
    return samples.astype(np.float32), rate


def _other_sound(file: BinaryIO, where: object) -> tuple[np.ndarray[Any, Any], int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the library after it is not there
        raise MissingDependencyError(
            f"{where} is not a plain wav file, and reading others needs soundfile: pip install 'featcache[audio]'."
        ) from error
    try:
        samples, rate = soundfile.read(file, dtype="float32")
    except Exception as error:
        raise UnreadableSampleError(f"{where} is damaged, or no sound that soundfile knows ({_line(error)})") from error
    return samples, rate


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
