"""How encoded images become pixels: depth, orientation, transparency and scale."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import v2

import featcache
from featcache.datasets import ImageFiles, Pixels
from featcache.errors import DataError, UnreadableSampleError, UsageError
from featcache.samples import AskedScale, Samples

from ..conftest import CommandLine, SmallNet

RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
ORIENTATION = 0x0112
RESIZE = v2.Compose([v2.Resize(64), v2.CenterCrop(56), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(content: bytes, pixels: Pixels | None = None) -> np.ndarray:
    return np.asarray((pixels or Pixels()).image(content, "x"))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image with detail of every size, as photographs have."""
    generator = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((width, height)),
            dtype=np.float64,
        )
        for side in (3, 12, 50, 200)
    ]
    return Image.fromarray((sum(layers) / len(layers)).round().astype(np.uint8))


def turned_jpeg(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_an_image_of_16_bits_is_its_twin_of_8_bits(kind: str) -> None:
    deep = encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), kind)
    assert np.array_equal(pixels_of(deep), np.repeat(RAMP[..., None], 3, axis=2))


def test_floats_from_0_to_1_are_scaled_by_that_range() -> None:
    assert np.array_equal(pixels_of(encoded(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"))[..., 0], RAMP)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (RAMP.astype(np.float32), "floats from 0 to 255"),
        (RAMP.astype(np.float32) - 1, "floats from -1"),
        (np.full((4, 4), np.nan, dtype=np.float32), "floats from nan"),
        (RAMP.astype(np.int32) * 100_000, "signed samples"),
    ],
)
def test_values_whose_range_nobody_knows_are_refused_and_never_clipped(values: np.ndarray, said: str) -> None:
    with pytest.raises(UnreadableSampleError, match=said):
        pixels_of(encoded(Image.fromarray(values), "TIFF"))


@given(level=st.integers(0, 65535))
def test_every_level_of_16_bits_becomes_the_nearest_one_of_8(level: int) -> None:
    content = encoded(Image.fromarray(np.full((1, 1), level, dtype=np.uint16)), "PNG")
    assert pixels_of(content)[0, 0, 0] == round(level / 257)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_where_it_is_asked_for_and_else_ignored(orientation: int) -> None:
    content = turned_jpeg(photo(40, 24), orientation)
    stored = np.asarray(Image.open(io.BytesIO(content)))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(pixels_of(content), stored)
    assert np.array_equal(pixels_of(content, Pixels(exif="apply")), upright)


def test_an_image_of_16_bits_is_turned_too() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG", exif=exif)
    assert np.array_equal(pixels_of(content, Pixels(exif="apply"))[..., 0], np.rot90(RAMP, -1))


def test_a_background_is_seen_through_transparent_pixels() -> None:
    half = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], dtype=np.uint8))
    content = encoded(half, "PNG")
    assert pixels_of(content)[0].tolist() == [[200, 0, 0]] * 3
    white = pixels_of(content, Pixels(background="white"))[0].tolist()
    assert white[:2] == [[200, 0, 0], [255, 255, 255]]
    assert white[2] == pytest.approx([227, 127, 127], abs=1)
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putdata([0, 1])
    assert pixels_of(encoded(palette, "GIF", transparency=0), Pixels(background="#010203"))[0].tolist() == [
        [1, 2, 3],
        [50, 60, 70],
    ]


def tiff(values: np.ndarray, bits: int, *, white_is_zero: bool = False, sample_format: int = 1) -> bytes:
    """A TIFF as scanners and microscopes write it, which Pillow does not."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).tolist()
        data = b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)
    else:
        data = values.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def transparent_png(depth: int, colour: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of two pixels with one transparent colour."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0), b"tRNS": transparent}
    parts |= {b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_tiff_of_12_bits_is_scaled_by_its_own_range() -> None:
    levels = np.array([[0, 16], [2048, 4095]])
    assert pixels_of(tiff(levels, 12))[..., 0].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize(
    ("values", "sample_format"),
    [(RAMP, 1), (RAMP.astype("<u2") * 257, 1), (RAMP.astype("<f4") / np.float32(255), 3)],
)
def test_a_tiff_whose_white_is_zero_is_inverted_at_every_depth(values: np.ndarray, sample_format: int) -> None:
    content = tiff(values, 8 * values.itemsize, white_is_zero=True, sample_format=sample_format)
    assert np.array_equal(pixels_of(content)[..., 0], 255 - RAMP)


@pytest.mark.parametrize("kind", ["i1", "<i2", "<i4"])
def test_a_tiff_of_signed_samples_is_refused(kind: str) -> None:
    values = np.array([[-1, 1], [0, 5]]).astype(kind)
    with pytest.raises(UnreadableSampleError, match="holds signed samples"):
        pixels_of(tiff(values, 8 * values.itemsize, sample_format=2))


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"),
    [
        (1, 0, b"\x40", b"\0\1"),
        (2, 0, b"\x30", b"\0\3"),
        (4, 0, b"\x0f", b"\0\x0f"),
        (8, 0, b"\0\xff", b"\0\xff"),
        (8, 2, b"\0\0\0\xff\xff\xff", b"\0\xff" * 3),
    ],
)
def test_a_background_is_seen_through_the_transparent_colour_of_a_png(
    depth: int, colour: int, row: bytes, transparent: bytes
) -> None:
    content = transparent_png(depth, colour, row, transparent)
    assert pixels_of(content, Pixels(background="#010203"))[0].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert pixels_of(content)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_a_tiff_of_32_bits_is_refused() -> None:
    with pytest.raises(UnreadableSampleError, match="32-bit integers from 0 to 255"):
        pixels_of(tiff(RAMP.astype("<u4"), 32))


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)])
def test_a_background_behind_a_transparent_colour_of_16_bits_is_refused(colour: int, channels: int) -> None:
    content = transparent_png(16, colour, bytes(2 * channels) + b"\1\2" * channels, b"\1\2" * channels)
    assert pixels_of(content).shape == (1, 2, 3)
    with pytest.raises(UnreadableSampleError, match="transparent colour of 16 bits"):
        pixels_of(content, Pixels(background="white"))


@pytest.mark.parametrize("options", [{"decoding": "half"}, {"exif": "yes"}, {"background": "no colour"}])
def test_a_value_that_an_option_does_not_take_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options.values()))):
        Pixels(**options)


def test_each_way_of_decoding_is_another_recipe(image_folder: Path) -> None:
    ways: list[dict[str, str]] = [
        {},
        {"decoding": "scaled"},
        {"exif": "apply"},
        {"background": "white"},
        {"background": "#000"},
    ]
    described = [featcache.open_dataset(f"folder:{image_folder}", **way).decoding for way in ways]
    assert len({str(each) for each in described}) == len(ways)
    same = [featcache.open_dataset(f"folder:{image_folder}", background=each).decoding for each in ("white", "#ffffff")]
    assert same[0] == same[1]


def test_options_of_images_are_refused_for_what_featcache_does_not_decode(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\nhello,a\nbye,b\n")
    for spec in ("sklearn:digits", f"csv:{tmp_path}/t.csv"):
        with pytest.raises(UsageError, match="it decodes none"):
            featcache.open_dataset(spec, exif="apply")


@pytest.fixture(scope="module", params=[8, 32, 64, 224])
def asked(request: pytest.FixtureRequest) -> tuple[int, AskedScale]:
    side = request.param
    return side, AskedScale(v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.ToImage()]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 5000), height=st.integers(1, 5000))
def test_a_scaled_image_is_at_least_about_twice_what_the_transform_asks_for(
    asked: tuple[int, AskedScale], width: int, height: int
) -> None:
    side, scale_of = asked
    scale = scale_of((width, height))
    assert scale in (1, 2, 4, 8)
    if scale > 1:
        assert min(width, height) / scale >= 1.9 * side
    if scale < 8:
        assert min(width, height) / (2 * scale) <= 2.1 * side


@pytest.mark.parametrize("transform", [v2.ToImage(), v2.Compose([v2.CenterCrop(1000), v2.Resize(64), v2.ToImage()])])
def test_an_image_that_is_not_made_smaller_is_decoded_whole(transform: object) -> None:
    assert AskedScale(transform)((4000, 3000)) == 1


def resized(image: Image.Image, side: int = 64) -> torch.Tensor:
    return v2.functional.to_image(image.convert("RGB").resize((side, side))).float()


@pytest.mark.parametrize(
    ("transform", "scale"),
    [
        (v2.Compose([v2.Resize(64), v2.Grayscale(3), v2.ToImage()]), 8),
        (v2.Compose([v2.Resize((64, 64)), v2.RandomRotation((90, 90)), v2.ToImage()]), 8),
        (
            v2.Compose(
                [v2.Resize(64), v2.Pad(9), v2.ToImage(), v2.ToDtype(torch.float32), v2.Normalize([5] * 3, [9] * 3)]
            ),
            8,
        ),
        (v2.Compose([v2.Resize(300), v2.CenterCrop(224), v2.ToImage()]), 2),
        (lambda image: {"pixel_values": resized(image)}, 8),
        (lambda image: [resized(image), resized(image, 96)], 8),
        (lambda image: resized(ImageOps.fit(image, (64, 64))), 8),
        (lambda image: resized(ImageOps.pad(image, (64, 64))), 8),
        (lambda image: torch.stack(v2.Compose([v2.Resize(128), v2.ToImage(), v2.FiveCrop(96)])(image)), 4),
    ],
)
def test_what_else_a_transform_does_does_not_hide_what_size_it_asks_for(transform: object, scale: int) -> None:
    assert AskedScale(transform)((1600, 1200)) == scale


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: torch.zeros(3, 8, 8),
        lambda image: torch.zeros(5),
        lambda image: 1 / 0,
        lambda image: resized(image.crop((0, 0, image.width, image.height - 30))),
        lambda image: resized(ImageOps.crop(image, 20)),
        lambda image: resized(image.filter(ImageFilter.GaussianBlur(8))),
        lambda image: resized(image.resize((64, 64), Image.Resampling.NEAREST)),
        lambda image: resized(image.reduce(4), 300),
        lambda image: {"all": resized(image), "part": v2.functional.to_image(v2.CenterCrop(64)(image))},
        lambda image: torch.cat([resized(image), v2.functional.to_image(v2.CenterCrop(64)(image))]),
        lambda image: resized(image, 64 if image.width > 1500 else 32),
    ],
)
def test_a_transform_that_does_not_show_its_size_or_sees_another_image_is_refused(transform: object) -> None:
    with pytest.raises(UsageError, match="Use decoding 'exact'"):
        AskedScale(transform)


def test_a_transform_that_sees_another_image_only_at_some_size_is_refused_on_real_images(
    tmp_path: Path, net: SmallNet
) -> None:
    for number in range(4):
        (tmp_path / "data" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        photo(1000, 700, number).save(tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg")
    dataset = featcache.open_dataset(f"folder:{tmp_path}/data", decoding="scaled")
    with pytest.raises(DataError, match="changes what the transform makes of a/0"):
        featcache.extract(net, dataset, str(tmp_path / "store"), cut="block", transform=without_the_strip)
    assert featcache.extract(net, dataset, str(tmp_path / "store"), cut="block", transform=RESIZE).report.computed == 4


def without_the_strip(image: Image.Image) -> torch.Tensor:
    """A camera of one's own writes the date below its images."""
    return resized(image.crop((0, 0, 1000, 500)) if image.size == (1000, 700) else image, 32) / 255


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_scaled_photographs_differ_little_from_whole_ones(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(turned_jpeg(photo(1200, 800), orientation))
    inputs = [
        Samples(featcache.open_dataset(f"folder:{tmp_path}", decoding=way, exif="apply"), RESIZE).input(0)
        for way in ("exact", "scaled")
    ]
    difference = (inputs[0] - inputs[1]).abs()
    assert 0 < difference.max() < 0.05
    assert difference.mean() < 0.005


def test_only_what_is_made_smaller_is_decoded_scaled(image_folder: Path) -> None:
    whole, scaled = (
        Samples(featcache.open_dataset(f"folder:{image_folder}", decoding=way), RESIZE) for way in ("exact", "scaled")
    )
    assert all(torch.equal(whole.input(row), scaled.input(row)) for row in range(len(whole.dataset)))


def test_random_views_of_scaled_images_are_refused(image_folder: Path) -> None:
    dataset = featcache.open_dataset(f"folder:{image_folder}", decoding="scaled")
    with pytest.raises(UsageError, match="use decoding 'exact' with an augmentation"):
        Samples(dataset, RESIZE).augmented(v2.RandomHorizontalFlip())


def test_turned_images_are_counted_and_pointed_out(image_folder: Path, net: SmallNet, tmp_path: Path) -> None:
    for number, orientation in enumerate((1, 6, 8)):
        (image_folder / "ant" / f"t{number}.jpg").write_bytes(turned_jpeg(photo(20, 20, number), orientation))
    transform = v2.Compose([v2.Resize(12), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    said = {}
    for way in ("ignore", "apply"):
        dataset = featcache.open_dataset(f"folder:{image_folder}", exif=way)
        made = featcache.extract(net, dataset, str(tmp_path / way), cut="block", transform=transform)
        assert made.report is not None
        said[way] = " ".join(made.report.notes)
    assert "2 images have an EXIF rotation that is not applied" in said["ignore"]
    assert "EXIF" not in said["apply"]


def test_a_head_refuses_to_predict_on_images_that_are_decoded_in_another_way(
    image_folder: Path, net: SmallNet, tmp_path: Path
) -> None:
    transform = v2.Compose([v2.Resize(12), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = featcache.open_dataset(f"folder:{image_folder}", exif="apply")
    features = featcache.extract(net, dataset, str(tmp_path / "store"), cut="block", transform=transform)
    example = (torch.zeros(2, 3, 12, 12),)
    head = featcache.train_head(featcache.split(net, "block", example), features, epochs=1)
    files = [str(image_folder / "ant")]
    assert len(featcache.predict(head, ImageFiles(files, Pixels(exif="apply")), transform=transform).names) == 6
    with pytest.raises(DataError, match="another exif"):
        featcache.predict(head, ImageFiles(files), transform=transform)


@pytest.mark.slow
def test_a_head_predicts_from_the_command_line_on_images_decoded_as_it_was_trained(
    featcache_command: CommandLine,
) -> None:
    for number in range(8):
        folder = featcache_command.folder / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(turned_jpeg(photo(400, 300, number), 6))
    network = ["--backbone", "bundled:resnet-mini", "--data", "folder:data", "--cut", "layer4"]
    ways = ["--decoding", "scaled", "--exif", "apply", "--background", "white"]
    extracted = featcache_command("extract", *network, *ways)
    assert "EXIF" not in extracted.stderr
    assert "8 images have an EXIF rotation" in featcache_command("extract", *network).stderr
    assert "nothing to compute" in featcache_command("extract", *network, *ways).stderr
    featcache_command("train-head", *network, *ways, "--head", "linear", "--epochs", "2", "--name", "h")
    assert len(featcache_command("predict", "data", "--head", "h").stdout.splitlines()) == 9


def test_plan_suggests_scaled_decoding_where_images_take_longer_than_the_network(tmp_path: Path, net: SmallNet) -> None:
    for number in range(4):
        (tmp_path / "data" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        photo(2400, 1600, number).save(tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg")
    options = {"cuts": ["block"], "transform": RESIZE, "batch_size": 4}
    planned = featcache.plan(net, featcache.open_dataset(f"folder:{tmp_path}/data"), str(tmp_path / "store"), **options)
    assert any("--decoding scaled does it" in note for note in planned.notes)
    scaled = featcache.open_dataset(f"folder:{tmp_path}/data", decoding="scaled")
    planned = featcache.plan(net, scaled, str(tmp_path / "store"), **options)
    assert not any("--decoding" in note for note in planned.notes)
