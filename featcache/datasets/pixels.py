"""How an encoded image becomes pixels: whole or at a smaller scale, turned or not, over which background."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnreadableSampleError, UsageError
from .pictures import open_picture, reading_image

__all__ = ["Pixels"]

Size = tuple[int, int]
DECODINGS = ("exact", "scaled")
EXIF = ("ignore", "apply")
TURNS = 5  # the first orientation that swaps width and height
ORIENTATION = 0x0112
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
SIXTEEN_BITS = 65535
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2
FEW_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies such greys of a PNG by, but not their transparent one


@dataclass(frozen=True)
class Pixels:
    """How images are decoded; a part of the recipe.

    Parameters
    ----------
    decoding : {"exact", "scaled"}, default "exact"
        Whether a JPEG that the transform makes smaller is decoded whole, or at the smallest of the scales 1/2, 1/4 and
        1/8 that is at least twice the size that the transform asks for.
    exif : {"ignore", "apply"}, default "ignore"
        Whether an image is turned as its EXIF orientation says. torchvision's loader does not turn it.
    background : str, optional
        The colour that is seen through transparent pixels, such as ``"white"`` or ``"#7f7f7f"``. By default
        transparency is dropped, as torchvision's loader does.
    scale_of : callable, optional
        A function that returns the scale, 1, 2, 4 or 8, at which an image of a size (width, height) is decoded.

    Raises
    ------
    UsageError
        If a value is not one of those that the option takes.
    """

    decoding: str = "exact"
    exif: str = "ignore"
    background: str | None = None
    scale_of: Callable[[Size], int] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, value, known in (("decoding", self.decoding, DECODINGS), ("exif", self.exif, EXIF)):
            if value not in known:
                raise UsageError(f"{name} must be {' or '.join(map(repr, known))}, not {value!r}.")
        if self.background is not None:
            self._colour()

    def described(self) -> dict[str, Any]:
        """Return the decoding as JSON-able values."""
        said: dict[str, Any] = {"decoder": "PIL", "mode": "RGB", "depth": "16 bits and floats to 8 bits by their range"}
        if self.decoding == "scaled":
            said["scale"] = "reduced while decoding, at least twice the size that the transform asks for"
        if self.exif == "apply":
            said["exif"] = "applied"
        if self.background is not None:
            said["background"] = list(self._colour())
        return said

    def image(self, content: bytes, where: object) -> Any:
        """Return the PIL image in RGB of encoded bytes; raises ``UnreadableSampleError`` for what is not a whole image."""
        with reading_image(where):
            return self._decoded(open_picture(io.BytesIO(content), where), where)

    def _decoded(self, image: Any, where: object) -> Any:
        from PIL import ImageOps

        if self.decoding == "scaled" and self.scale_of is not None:
            self._reduce(image)
        kind, (white, inverted) = image.format, _range(image, where)
        if self.background is not None and kind == "PNG":
            _keep_transparent_colour(image, where)
        if self.exif == "apply":
            image = ImageOps.exif_transpose(image)
        if image.mode in DEEP or image.mode == "F":
            image = _in_bytes(image, kind, white, where)
            image = ImageOps.invert(image) if inverted else image
        if self.background is not None and image.has_transparency_data:
            from PIL import Image

            over = image.convert("RGBA")
            image = Image.new("RGBA", over.size, (*self._colour(), 255))
            image.alpha_composite(over)
        return image.convert("RGB")

    def _reduce(self, image: Any) -> None:
        """Have an image that is not loaded yet decoded at the scale that suffices."""
        assert self.scale_of is not None
        width, height = image.size
        if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
            return
        turned = self.exif == "apply" and image.getexif().get(ORIENTATION, 1) >= TURNS
        scale = self.scale_of((height, width) if turned else (width, height))
        if scale > 1:
            image.draft(None, (-(-width // scale), -(-height // scale)))

    def _colour(self) -> tuple[int, int, int]:
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(str(self.background))[:3]
        except ValueError:
            raise UsageError(
                f"{self.background!r} is not a colour: use a name such as 'white', or '#rrggbb'."
            ) from None


def _range(image: Any, where: object) -> tuple[int, bool]:
    """Return the largest value of an image of more than 8 bits, and whether it is black; raises for signed samples."""
    if image.format != "TIFF":
        return SIXTEEN_BITS, False
    tags = image.tag_v2
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise UnreadableSampleError(f"{where} {_unknown('signed samples', 'unsigned samples')}")
    return min((1 << tags.get(BITS, (16,))[0]) - 1, SIXTEEN_BITS), tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _keep_transparent_colour(image: Any, where: object) -> None:
    """Bring the transparent colour of a PNG to the depth that Pillow decodes it to; raises for one of 16 bits."""
    if "transparency" not in image.info or not image.tile:
        return
    form = str(image.tile[0][3])
    if form.endswith("16B"):
        raise UnreadableSampleError(
            f"{where} has a transparent colour of 16 bits, which is lost in decoding: save it with 8 bits or an alpha "
            "channel, or leave the background out"
        )
    if form in FEW_BITS:
        image.info["transparency"] *= FEW_BITS[form]


def _in_bytes(image: Any, kind: str, white: int, where: object) -> Any:
    """Return an image of more than 8 bits a channel in grey of 8 bits, its whole range scaled to theirs."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if image.mode == "F":
        if not (low >= 0 and high <= 1):
            raise UnreadableSampleError(f"{where} {_unknown(f'floats from {low:g} to {high:g}', '0 to 1')}")
        return Image.fromarray(np.rint(values * np.float32(255)).astype(np.uint8))
    if image.mode == "I" and kind not in ("PNG", "PPM"):  # whose 16 bits some versions of Pillow widen
        raise UnreadableSampleError(f"{where} {_unknown(f'32-bit integers from {low} to {high}', '16 bits')}")
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8))


def _unknown(found: str, known: str) -> str:
    return (
        f"holds {found}, and nothing says which of them are black and white (known is the range of {known}): "
        "save it with 8 or 16 bits, or scale it in a dataset of your own"
    )
