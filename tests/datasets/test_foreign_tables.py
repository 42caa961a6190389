"""Tables as other programs and systems write them: packed, in other encodings, with other paths, or as parquet."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache import extract, load_backbone, open_dataset
from featcache.errors import DataError, UnreadableSampleError, UsageError

TABLE = "path,label\n" + "".join(f"im/{number}.png,{'ab'[number % 2]}\n" for number in range(4))


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (shade * 37 % 256, 90, 200)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "im").mkdir()
    for number in range(4):
        (tmp_path / "im" / f"{number}.png").write_bytes(png(number))
    return tmp_path


def zipped(members: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", gzip.compress(TABLE.encode())),
        ("t.csv.zip", zipped({"t.csv": TABLE, "__MACOSX/._t.csv": "x"})),
        ("t.csv", TABLE.encode("utf-16")),
        ("t.csv", codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be")),
        ("t.csv", TABLE.encode("utf-8-sig")),
        ("t.csv", TABLE.replace("\n", "\r\n").encode()),
    ],
    ids=["gzip", "zip", "utf-16", "utf-16-be", "utf-8", "crlf"],
)
def test_packed_tables_and_those_with_a_mark_of_their_encoding_are_read(
    images: Path, name: str, content: bytes
) -> None:
    (images / name).write_bytes(content)
    dataset = open_dataset(f"csv:{images / name}")
    assert dataset.names == [f"im/{number}.png" for number in range(4)]
    assert dataset.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped({"a.csv": TABLE, "b.csv": TABLE}), "holds 2 files, not one table: unpack it"),
        (
            zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}),
            "document of an office program: save the table as CSV",
        ),
        (gzip.compress(TABLE.encode())[:-9], "cannot be unpacked"),
        (zipped({"a.csv": TABLE})[:40], "cannot be unpacked"),
        (TABLE.encode("utf-16-le"), r"zero characters.*\?encoding=utf-16-le"),
        (
            "text,label\nfine,a\ncafé,b\n".encode("cp1252"),
            r"t\.csv line 3 is not text in UTF-8 \(byte 0xe9\).*\?encoding=cp1252",
        ),
    ],
    ids=["two", "office", "gzip", "zip", "utf-16", "cp1252"],
)
def test_what_cannot_be_unpacked_or_decoded_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=words) as raised:
        open_dataset(f"csv:{tmp_path / 't.csv'}")
    assert "\n" not in str(raised.value)


def test_an_encoding_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("text,label\ncafé – Zürich,a\nb,b\n".encode("cp1252"))
    assert open_dataset(f"csv:{tmp_path / 't.csv'}?encoding=cp1252")[0][0] == "café – Zürich"
    for name in ("cp9999", "rot13", "undefined"):
        with pytest.raises(UsageError, match=f"encoding={name} is not an encoding of text"):
            open_dataset(f"csv:{tmp_path / 't.csv'}?encoding={name}")
    with pytest.raises(DataError, match="line 2 is not text in ascii"):
        open_dataset(f"csv:{tmp_path / 't.csv'}?encoding=ascii")


def test_backslashes_of_windows_are_slashes_where_only_those_lead_to_a_file(images: Path) -> None:
    (images / "t.csv").write_text(TABLE.replace("/", "\\"))
    dataset = open_dataset(f"csv:{images / 't.csv'}")
    assert dataset.names[0] == "im/0.png"
    assert dataset[3][0].size == (32, 32)
    assert dataset.notes[1:] == ["4 paths with backslashes read with slashes"]
    (images / "im\\0.png").write_bytes(png(9))
    again = open_dataset(f"csv:{images / 't.csv'}")
    assert again.names[0] == "im\\0.png"
    assert again.notes[1:] == ["3 paths with backslashes read with slashes"]


def test_spaces_around_a_name_count_where_the_file_has_them(images: Path) -> None:
    (images / " lead.png").write_bytes(png(8))
    (images / "t.csv").write_text(TABLE + " lead.png,a\n im/0.png ,b\n")
    dataset = open_dataset(f"csv:{images / 't.csv'}")
    assert dataset.names[4:] == [" lead.png", "im/0.png (line 7)"]
    assert dataset[4][0].getpixel((0, 0)) == (8 * 37 % 256, 90, 200)


@pytest.mark.parametrize("url", ["https://x.org/0.png", "s3://bucket/0.png", " file:///tmp/0.png"])
def test_urls_are_refused(images: Path, url: str) -> None:
    (images / "t.csv").write_text(TABLE + f"{url},a\n")
    with pytest.raises(DataError, match=r"line 6 names .* is a URL: download the files first"):
        open_dataset(f"csv:{images / 't.csv'}")


@pytest.mark.slow
def test_rows_without_a_file_are_named_with_their_lines_and_skipped_where_that_is_asked(images: Path) -> None:
    (images / "t.csv").write_text(TABLE + "im/gone.png,a\n")
    with pytest.raises(UnreadableSampleError, match=r"t\.csv line 6: .*gone\.png is not there"):
        open_dataset(f"csv:{images / 't.csv'}")[4]
    backbone = load_backbone("bundled:resnet-mini")
    features = extract(
        backbone.model,
        f"csv:{images / 't.csv'}",
        images / "store",
        cut="layer3",
        transform=backbone.make_transform(None),
        on_error="skip",
    )
    assert len(features) == 4


@pytest.fixture
def arrow(library: object) -> object:
    """The writer of parquet files that other programs use, beside the datasets library with a cache of its own."""
    import pyarrow.parquet

    return pyarrow


LABELS = ["cat", "dog", "cat", "dog"]


def test_contents_of_files_are_known_without_the_notes_of_the_library(arrow, images: Path) -> None:
    contents = [png(number) for number in range(4)]
    for name, column in (
        ("struct", [{"bytes": each, "path": None} for each in contents]),
        ("binary", contents),
    ):
        arrow.parquet.write_table(arrow.table({"picture": column, "label": LABELS}), images / f"{name}.parquet")
        dataset = open_dataset(f"hf:{images / name}.parquet")
        assert dataset.classes == ["cat", "dog"]
        assert "the column 'picture' holds contents of files, taken for images" in dataset.notes
        assert dataset[2][0].getpixel((0, 0)) == (74, 90, 200)
        assert np.array_equal(dataset.sample_ids(), open_dataset(f"csv:{written(images)}").sample_ids())


def written(images: Path) -> Path:
    (images / "t.csv").write_text(TABLE)
    return images / "t.csv"


def test_paths_in_a_parquet_file_are_relative_to_it_as_in_a_table(
    arrow, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["im/0.png", "im\\1.png", " im/2.png", None, "im/gone.png"]
    table = arrow.table({"image": paths, "label": [*LABELS, "cat"]})
    arrow.parquet.write_table(table, images / "t.parquet")
    (images / "elsewhere").mkdir()
    for place, name in ((images, "t.parquet"), (images / "elsewhere", "../t.parquet")):
        monkeypatch.chdir(place)
        dataset = open_dataset(f"hf:{name}")
        assert dataset.notes[:1] == ["1 path with backslashes read with slashes"]
        assert [dataset[row][0].getpixel((0, 0))[0] for row in range(3)] == [0, 37, 74]
        ids = dataset.sample_ids()
        assert np.array_equal(ids[:3], open_dataset(f"csv:{written(images)}").sample_ids()[:3])
        assert len(np.unique(ids, axis=0)) == 5
        for row, words in ((3, "train/3 has no value"), (4, r"gone\.png is not there")):
            with pytest.raises(UnreadableSampleError, match=words):
                dataset[row]


def test_urls_and_mixed_columns_of_a_parquet_file_are_refused(arrow, images: Path) -> None:
    urls = arrow.table({"image": ["https://x.org/0.png"] * 4, "label": LABELS})
    arrow.parquet.write_table(urls, images / "urls.parquet")
    with pytest.raises(DataError, match="is a URL: download the files first"):
        open_dataset(f"hf:{images / 'urls.parquet'}")
    mixed = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "im/1.png"}]
    for name, rows in (("first", mixed), ("last", mixed[::-1])):
        arrow.parquet.write_table(arrow.table({"image": rows, "label": LABELS[:2]}), images / f"{name}.parquet")
        with pytest.raises(DataError, match="paths of files among contents of files"):
            open_dataset(f"hf:{images / name}.parquet").sample_ids()


def test_a_column_of_targets_is_never_taken_for_texts_and_files_beside_texts_are_asked_about(
    arrow, images: Path
) -> None:
    arrow.parquet.write_table(arrow.table({"number": [1, 2, 3, 4], "label": LABELS}), images / "t.parquet")
    with pytest.raises(DataError, match=r"does not say which column holds its samples\. It has: number, label"):
        open_dataset(f"hf:{images / 't.parquet'}")
    both = arrow.table({"image": ["im/0.png"] * 4, "text": ["a"] * 4, "label": LABELS})
    arrow.parquet.write_table(both, images / "both.parquet")
    with pytest.raises(DataError, match=r"both files \('image'\) and texts \('text'\)"):
        open_dataset(f"hf:{images / 'both.parquet'}")


def test_a_heic_image_in_a_table_says_what_to_install(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (images / "t.csv").write_text(TABLE + "im/4.heic,a\n")
    with pytest.raises(DataError, match=r"line 6 .*pip install 'featcache\[heif\]'"):
        open_dataset(f"csv:{images / 't.csv'}")
