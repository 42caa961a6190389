"""Folders are listed by one rule for ``extract`` and ``predict``, and what is left out is counted."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from torchvision.transforms import v2

import featcache
from featcache.datasets import ImageFiles, open_dataset
from featcache.datasets.media import IMAGES
from featcache.errors import DataError, MissingDependencyError, UnreadableSampleError, UsageError

from ..conftest import SmallNet

# Formats of Pillow that hold no still picture of usual shades, and extensions that mostly mean something else.
NO_PICTURES = {".bufr", ".emf", ".eps", ".fit", ".fits", ".flc", ".fli", ".gbr", ".grib", ".h5", ".hdf", ".iim", ".im"} | {
    ".mpeg", ".mpg", ".palm", ".pcd", ".pdf", ".pfm", ".ps", ".vst", ".wmf",
}  # fmt: skip


def put(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 90, 200)).save(path)
    return path


def extensions() -> dict[str, str]:
    """Each extension that Pillow knows, with its format."""
    Image.init()
    return {
        extension: kind for extension, kind in Image.EXTENSION.items() if extension not in (".heic", ".heif", ".hif")
    }


def written(path: Path, kind: str) -> bool:
    """Write an image in the first mode that a format has; return whether it has one."""
    for mode in ("RGB", "P", "1"):
        try:
            Image.new(mode, (32, 32), 1).save(path, kind)
        except (OSError, ValueError, KeyError):
            path.unlink(missing_ok=True)
        else:
            return True
    return False


def test_every_extension_that_pillow_knows_is_taken_or_is_no_still_picture() -> None:
    assert extensions().keys() - NO_PICTURES <= set(IMAGES)
    assert not NO_PICTURES & set(IMAGES)


def test_images_of_every_format_that_pillow_writes_are_found_and_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    made = {
        f"a/{number}{extension}"
        for number, (extension, kind) in enumerate(extensions().items())
        if extension in IMAGES and kind in Image.SAVE and written(tmp_path / "a" / f"{number}{extension}", kind)
    }
    assert len(made) > 25
    dataset = open_dataset(f"folder:{tmp_path}")
    assert set(dataset.names) == made
    assert dataset.notes == []
    assert {dataset[row][0].mode for row in range(len(dataset))} == {"RGB"}
    predicted = ImageFiles([str(tmp_path)])
    assert [os.path.relpath(name, tmp_path) for name in predicted.names] == dataset.names


def test_a_file_that_is_named_twice_is_predicted_once_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / f"{number}.png")
    files = ImageFiles([str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / ".." / "a" / "1.png")])
    assert len(files) == 3
    assert files.notes == ["4 of the files are named twice, and taken once"]


@pytest.mark.parametrize("extension", ["gif", "tiff", "apng", "webp", "avif"])
def test_of_an_animation_or_several_pages_the_first_is_taken(tmp_path: Path, extension: str) -> None:
    pages = [Image.new("RGB", (16, 16), color) for color in ("white", "black", "black")]
    kind = {"apng": "PNG"}.get(extension, extension.upper())
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / "a" / f"0.{extension}"
    path.parent.mkdir()
    pages[0].save(path, kind, save_all=True, append_images=pages[1:])
    image, _ = open_dataset(f"folder:{tmp_path}")[0]
    assert min(image.getpixel((8, 8))) > 240


def cluttered(root: Path) -> None:
    """A folder of two images among all that may lie beside images."""
    put(root / "a" / "0.png")
    put(root / "a" / "album.jpg" / "in.PNG", 3)
    for name in (".hidden.png", "._0.png", ".ipynb_checkpoints/0.png", "@eaDir/0.png", "__MACOSX/0.png"):
        put(root / "a" / name)
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", "table.csv", "more.csv", "LICENSE", "scan.pcd", "x.json"):
        (root / "a" / name).write_bytes(b"x")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "up").symlink_to(root / "a", target_is_directory=True)


def test_what_is_left_out_is_counted_alike_for_extract_and_for_predict(tmp_path: Path) -> None:
    cluttered(tmp_path)
    dataset, files = open_dataset(f"folder:{tmp_path}"), ImageFiles([str(tmp_path / "a")])
    assert dataset.names == ["a/0.png", "a/album.jpg/in.PNG"]
    assert [str(path.relative_to(tmp_path)) for path in files.paths] == dataset.names
    assert dataset.notes == files.notes
    first, second, third = files.notes
    assert first == "11 files left out: 4 hidden, 2 .csv, 1 .json, 1 .pcd, 1 .txt and 2 of 2 other kinds"
    assert second == "3 hidden folders left out"
    assert third == "1 link to a folder above not followed"


def test_files_beside_the_class_folders_and_sounds_among_images_are_counted(tmp_path: Path) -> None:
    for place in ("train/a/0.png", "train/b/1.png", "test/a/2.png", "test/loose.png", "readme.md"):
        put(tmp_path / place) if place.endswith("png") else (tmp_path / place).write_text("x")
    (tmp_path / "train" / "a" / "0.wav").write_bytes(b"RIFF")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert len(dataset) == 3
    assert dataset.notes == ["3 files left out: 1 .md, 1 .png, 1 .wav"]


def test_links_to_folders_and_files_are_followed_and_those_to_no_file_are_counted_and_named(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a" / "0.png")
    put(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "a" / "3.png").symlink_to("nowhere.png")
    (tmp_path / "data" / "a" / "4.png").symlink_to("4.png")
    (tmp_path / "data" / "a" / "5.txt").symlink_to("nowhere.txt")
    dataset, files = open_dataset(f"folder:{tmp_path / 'data'}"), ImageFiles([str(tmp_path / "data")])
    assert dataset.names == ["a/0.png", "a/2.png", "a/3.png", "a/4.png", "a/more/1.png"]
    assert [os.path.relpath(name, tmp_path / "data") for name in files.names] == dataset.names
    for notes in (dataset.notes, files.notes):
        assert notes[0] == "1 file left out: 1 .txt"
        assert notes[1].startswith("2 links to no file, the first: ")
    with pytest.raises(UnreadableSampleError, match=r"3\.png is not there"):
        dataset[2]


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a" / "0.png")
    os.mkfifo(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path / "a")  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("3.png")
        assert open_dataset(f"folder:{tmp_path}").names == ["a/0.png"]
        assert ImageFiles([str(tmp_path)]).notes == ["3 files left out: 3 pipe, socket or device"]
    with pytest.raises(DataError, match="is a pipe, a socket or a device"):
        ImageFiles([str(tmp_path / "a" / "1.png")])
    (tmp_path / "t.csv").write_text("path,label\na/0.png,1\na/1.png,2\na/2.png,3\n")
    table = open_dataset(f"csv:{tmp_path / 't.csv'}")
    assert len(table.sample_ids()) == 3
    with pytest.raises(UnreadableSampleError, match=r"line 3: .*1\.png is a pipe"):
        table[1]


def test_a_file_that_is_named_is_taken_whatever_its_extension_is(tmp_path: Path) -> None:
    put(tmp_path / "0.png").rename(tmp_path / "picture")
    put(tmp_path / "0.png").rename(tmp_path / ".0.backup")
    files = ImageFiles([str(tmp_path / "picture"), str(tmp_path / ".0.backup")])
    assert [files[row][0].size for row in range(2)] == [(6, 4), (6, 4)]
    with pytest.raises(DataError, match=r"no images or sounds .*2 files left out: 1 hidden, 1 without extension"):
        ImageFiles([str(tmp_path)])


def test_without_their_package_heic_images_are_counted_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    put(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.names == ["a/0.png"]
    assert dataset.notes == ["1 file left out: 1 .heic (to read it: pip install 'featcache[heif]')"]
    with pytest.raises(MissingDependencyError, match=r"1\.HEIC is a HEIF image, which needs .*featcache\[heif\]"):
        ImageFiles([str(tmp_path / "a" / "1.HEIC")])[0]


def test_with_their_package_heic_images_are_images(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    (tmp_path / "a").mkdir()
    heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(tmp_path / "a" / "0.heic")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert (dataset.names, dataset.notes) == (["a/0.heic"], [])
    red, green, _ = dataset[0][0].getpixel((30, 30))
    assert red > 200 > 60 > green


def test_whatever_a_decoder_raises_is_an_unreadable_sample_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a" / "0.png")
    for raised in (EOFError(), KeyError("tag"), AssertionError("a b\nc"), RuntimeError("no\nmemory")):
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", raising(raised))
        with pytest.raises(UnreadableSampleError, match=r"0\.png is damaged or unreadable \(.+\)") as found:
            ImageFiles([str(path)])[0]
        assert "\n" not in str(found.value)


def raising(error: Exception) -> Callable[..., None]:
    def load(*_: object) -> None:
        raise error

    return load


def test_an_image_beyond_pillows_limit_is_said_to_be_so_and_can_be_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "a").mkdir()
    Image.new("1", (50, 30)).save(tmp_path / "a" / "0.png")
    Image.new("1", (50, 50)).save(tmp_path / "a" / "1.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset[0][0].size == (50, 30)  # between half the limit and the limit, where Pillow warns
    assert not recwarn.list
    with pytest.raises(
        UnreadableSampleError, match=r"1\.png has more pixels than Pillow decodes, 2,000: .*FEATCACHE_MAX"
    ):
        dataset[1]
    monkeypatch.setenv("FEATCACHE_MAX_PIXELS", "2500")
    assert dataset[1][0].size == (50, 50)
    monkeypatch.setenv("FEATCACHE_MAX_PIXELS", "2498")
    with pytest.raises(UnreadableSampleError, match="2,498"):
        dataset[1]
    monkeypatch.setenv("FEATCACHE_MAX_PIXELS", "many")
    with pytest.raises(UsageError, match="FEATCACHE_MAX_PIXELS is the most pixels of an image"):
        dataset[1]


def test_predict_names_a_text_or_sound_that_an_image_head_does_not_take_and_leaves_out_strays(
    image_folder: Path, net: SmallNet, tmp_path: Path
) -> None:
    transform = v2.Compose([v2.Resize(12), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    dataset = open_dataset(f"folder:{image_folder}")
    features = featcache.extract(net, dataset, str(tmp_path / "store"), cut="block", transform=transform)
    head = featcache.train_head(featcache.split(net, "block", (torch.zeros(2, 3, 12, 12),)), features, epochs=1)
    wavfile.write(image_folder / "ant" / "x.wav", 8000, np.zeros(80, dtype=np.int16))
    (tmp_path / "notes.txt").write_text("hello")
    for other in (image_folder / "ant" / "x.wav", tmp_path / "notes.txt"):
        files = ImageFiles([str(image_folder / "ant" / "0.png"), str(other)])
        with pytest.raises(DataError, match=rf"{other.name}: the transform does not take"):
            featcache.predict(head, files, transform=transform)
        found = featcache.predict(head, files, transform=transform, on_error="skip")
        assert [Path(name).name for name in found.names] == ["0.png"]
        assert [Path(each.name).name for each in found.skipped] == [other.name]
    files = ImageFiles([str(image_folder)])
    assert files.notes == ["1 file left out: 1 .wav"]
    assert len(featcache.predict(head, files, transform=transform).names) == 18
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "cover.png").write_bytes((image_folder / "ant" / "0.png").read_bytes())
    for number in range(2):
        wavfile.write(tmp_path / "more" / f"{number}.wav", 8000, np.zeros(80, dtype=np.int16))
    with pytest.raises(DataError, match="both 1 images and 2 sounds"):
        ImageFiles([str(tmp_path / "more")])
