from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcil.data.manifest import describe, read_manifest, write_manifest
from mcil.errors import McilError
from mcil.types import SPLITS, ClipRecord

RECORDS = [
    ClipRecord("a", "dog", "train", video="dog/a.mp4", audio="dog/a.mp4", start=1.5, end=2.0, source="tape 1"),
    ClipRecord("b", 'cat, "small"', "val", audio="cät/b.wav"),
    ClipRecord("c", "dog", "test", image="dog/c.png", start=0.0),
]
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=9)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path / name, RECORDS)
    assert read_manifest(tmp_path / name) == RECORDS


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            ClipRecord,
            id=TEXT,
            label=TEXT,
            split=st.sampled_from(SPLITS),
            video=TEXT,
            audio=st.none() | TEXT,
            start=st.none() | st.floats(0, 1e6),
            source=st.none() | TEXT,
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda record: record.id,
    ),
    name=st.sampled_from(["m.csv", "m.parquet"]),
)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, rows: list[ClipRecord], name: str) -> None:
    path = tmp_path_factory.mktemp("manifest") / name
    write_manifest(path, rows)
    assert read_manifest(path) == rows


def test_empty_cells_and_columns_are_none(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,label,split,audio,start\n 1 ,x,train,a.wav,\n2,x,test,b.wav, 3 \n")
    first, second = read_manifest(tmp_path / "m.csv")
    assert first == ClipRecord("1", "x", "train", audio="a.wav")
    assert second.start == 3.0


def test_parquet_with_numbers_as_names(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [1, 2], "label": [7, 8], "split": ["train"] * 2, "audio": ["a", "b"], "end": [1, 2]})
    frame.write_parquet(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet")[1] == ClipRecord("2", "8", "train", audio="b", end=2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,lable,split,audio\n1,x,train,a", "unknown column 'lable'. Did you mean 'label'"),
        ("id,label,audio\n1,x,a", "column 'split' is missing"),
        ("id,label,split\n1,x,train", "give at least one of video, audio, image"),
        ("id,label,split,audio\n1,x,train,a\n2,x,tset,b", "row 2, column 'split': unknown split 'tset'.*'test'"),
        ("id,label,split,audio,image\n1,x,train,a,\n2,x,test,,", "row 2 names no file"),
        ("id,label,split,audio\n1,,train,a", "row 1, column 'label' is empty"),
        ("id,label,split,audio\n1,x,train,a\n2,x,test,b\n1,x,val,c", "rows 1 and 3 both have the id '1'"),
        ("id,label,split,audio,start\n1,x,train,a,soon", "row 1, column 'start': 'soon' is no number"),
        ("id,label,split,audio,start,end\n1,x,train,a,2,1", "row 1, columns 'start' and 'end'"),
        ("id,label,split,audio,start\n1,x,train,a,-1", "row 1, columns 'start' and 'end'"),
        ("id,label,split,audio,end\n1,x,train,a,nan", "row 1, columns 'start' and 'end'"),
        ("id,label,split,audio\n", "no rows"),
        ("", "cannot be read as a table"),
        ("id,label,split,audio\n1,x,train,a,b,c\n", "cannot be read as a table"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(McilError, match=message) as error:
        read_manifest(tmp_path / "m.csv")
    assert "m.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(McilError, match="no such file"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(McilError, match=r"a \.csv or \.parquet file"):
        read_manifest(tmp_path / "m.txt")
    (tmp_path / "m.parquet").write_text("x")
    with pytest.raises(McilError, match="cannot be read as a table"):
        read_manifest(tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00id,label\xff")
    with pytest.raises(McilError, match=r"m\.csv"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(McilError, match="choose another name"):
        write_manifest(tmp_path / "m.json", RECORDS)
    assert not (tmp_path / "m.json").exists()


def test_describe() -> None:
    line = describe(RECORDS)
    assert line == "3 clips (1 train, 1 val, 1 test) of 2 classes; 1 with video, 1 with images, 2 with sound"
