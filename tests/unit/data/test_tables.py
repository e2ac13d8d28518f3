"""CSV files that are broken as files: the error names file and row."""

import gzip

import pytest
from chexseg_platform.data.entries import BrokenTable
from chexseg_platform.data.tables import Problems, Table, age_of, spread


def table(tmp_path, content):
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    return Table(file, ["Path", "Edema"])


def test_header_variants(tmp_path):
    found = table(tmp_path, b"\xef\xbb\xbf edema ,Path,Extra\n1,a,x\r\n\r\n0,b,\n")
    assert found.columns == {"Edema": 0, "Path": 1, "Extra": 2}
    assert list(found) == [(2, ["1", "a", "x"]), (4, ["0", "b", ""])]


def test_rows_are_counted_as_lines_also_after_a_cell_with_line_breaks(tmp_path):
    found = table(tmp_path, b'Path,Edema\n"a\n\n,b",1\nc,0\n')
    assert list(found) == [(2, ["a\n\n,b", "1"]), (5, ["c", "0"])]


def test_a_compressed_table_is_read(tmp_path):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(gzip.compress(b"Path,Edema\na,1\n"))
    assert list(Table(file, ["Path"])) == [(2, ["a", "1"])]
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(BrokenTable, match="no readable row"):
        list(Table(file, ["Path"]))


@pytest.mark.parametrize(
    ("content", "row", "says"),
    [
        (b"", None, "empty"),
        (b"\n\n", None, "empty"),
        (b"Path,Oedema\na,1\n", 1, "'Edema': no such column"),
        (b"Path,Edema,EDEMA\na,1,1\n", 1, "found twice"),
        (b"Path,Edema\na,1\nb\n", 3, "1 cells"),
        (b"Path,Edema\na,1\nb,0,7\n", 3, "3 cells"),
        (b'Path,Edema\na,1\n"b,0\nc,1\n', 3, "no readable row"),
        (b'Path,Edema\n"a"b,1\n', 2, "no readable row"),
        (b"Path,Edema\na,1\nb\xe9,1\n", 3, "no text"),
        (b"Path,Edema\n" + b"a" * 200_000 + b",1\n", 2, "no readable row"),
    ],
)
def test_broken_files_name_the_row(tmp_path, content, row, says):
    with pytest.raises(BrokenTable, match=says) as caught:
        list(table(tmp_path, content))
    assert caught.value.row == row
    assert str(tmp_path / "table.csv") in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(BrokenTable, match="no such file"):
        Table(tmp_path / "absent.csv", ["Path"])


def test_ages(tmp_path):
    problems = Problems(tmp_path)
    texts = ["", "0", "73", "90.0", "-1", "nan", "inf", "old", "1e3"]
    ages = [age_of(problems, 2, "Age", text) for text in texts]
    assert ages == [None, 0, 73, 90, None, None, None, None, None]
    with pytest.raises(BrokenTable, match=r"'-1'.*'nan'.*'inf'.*2 more problems"):
        problems.stop_if_any()


@pytest.mark.parametrize(
    ("rows", "limit", "places"),
    [
        (0, None, []),
        (4, None, [0, 1, 2, 3]),
        (5, None, [0, 2, 4]),
        (9, None, [0, 4, 8]),
        (9, 6, [0, 2, 4]),
        (1000, None, [0, 256, 512, 768]),
    ],
)
def test_rows_are_chosen_evenly(rows, limit, places):
    chosen = spread(((number, []) for number in range(rows)), 4, limit)
    assert [number for number, _ in chosen] == places
