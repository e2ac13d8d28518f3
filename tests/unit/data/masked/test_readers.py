"""Readers of collections with mask files: what is listed, in which split, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chexseg_platform.config import Collection
from chexseg_platform.data import masks
from chexseg_platform.data.decode import UnreadableInput, read_jsrt
from chexseg_platform.data.entries import BrokenTable, Entry, MaskFiles, MaskSizeError
from chexseg_platform.data.masked.collection import read_collection
from chexseg_platform.data.masked.covid_qu_ex import read_covid_qu_ex
from chexseg_platform.data.masked.files import NoCollection
from chexseg_platform.data.masked.read import read_mask, read_mask_files
from chexseg_platform.data.rows import make_row
from chexseg_platform.data.splits import PatientInTwoSplits
from chexseg_platform.findings import ORGANS
from PIL import Image

SIDE = 16


def picture(path: Path, seed: int = 0, side: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def mask(path: Path, rows: slice = slice(0, 4), side: int = SIDE, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.zeros((side, side), np.uint8)
    drawn[rows] = value
    Image.fromarray(drawn).save(path)
    return path


def jsrt(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.astype(">u2").tobytes())
    return path


def splits(entries: list[Entry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.split, []).append(entry.image_id)
    return found


def rows_of(entry: Entry) -> dict[str, list[int]]:
    """Which rows of an entry's image each mask fills."""
    row = make_row(entry, SIDE)
    assert row.masks is not None
    decoded = {name: masks.decode(text, row.height, row.width) for name, text in row.masks.items()}
    return {name: np.flatnonzero(each.any(axis=1)).tolist() for name, each in decoded.items()}


@pytest.fixture
def scr(tmp_path: Path) -> Path:
    """Four images of JSRT with SCR's masks, in the folders that both are downloaded in."""
    ramp = np.linspace(0, 4095, 2048 * 2048).round().reshape(2048, 2048)
    for name in ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002"):
        jsrt(tmp_path / "All247images" / f"{name}.IMG", ramp)
        fold = "fold1" if name.endswith("1") else "fold2"
        for number, organ in enumerate(ORGANS):
            file = tmp_path / "scratch" / fold / "masks" / organ.lower() / f"{name}.gif"
            mask(file, slice(100 * number, 100 * number + 50), side=1024)
    return tmp_path


def test_jsrt_with_the_masks_of_scr(scr: Path) -> None:
    found = read_collection(Collection(layout="jsrt", root=str(scr), valid=0.0))
    assert splits(found) == {
        "train": ["JPCLN001", "JPCNN001"], "test": ["JPCLN002", "JPCNN002"]
    }  # fmt: skip
    other = read_collection(Collection(layout="jsrt", root=str(scr), valid=0.0, test_fold=1))
    assert splits(other)["test"] == ["JPCLN001", "JPCNN001"]
    row = make_row(found[0], 32)
    # As coarse as the masks; and the highest number is the darkest film.
    assert (row.height, row.width) == (1024, 1024)
    pixels = row.pixels()
    assert pixels[0, 0] > 250
    assert pixels[-1, -1] < 5
    assert row.masks is not None
    assert set(row.masks) == set(ORGANS)
    heart = masks.decode(row.masks["Heart"], 1024, 1024)
    assert np.flatnonzero(heart.any(axis=1)).tolist() == list(range(200, 250))


def test_jsrt_holds_patients_for_validation(scr: Path) -> None:
    found = splits(read_collection(Collection(layout="jsrt", root=str(scr), valid=0.5)))
    assert [len(found[name]) for name in ("train", "valid", "test")] == [1, 1, 2]


def test_jsrt_pixels(tmp_path: Path) -> None:
    values = np.full((2048, 2048), 100)
    values[0, :3] = 0, 4095, 16
    pixels = read_jsrt(jsrt(tmp_path / "a.IMG", values))
    assert pixels[0, :4].tolist() == [255, 0, 254, (4095 - 100) >> 4]


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        (b"\0" * 100, "truncated", "100 bytes; an image of JSRT has 8,388,608"),
        (b"\0" * (8_388_608 + 2), "decode", "8,388,610 bytes"),
        (np.full(2048 * 2048, 4096, ">u2").tobytes(), "decode", "bytes were swapped"),
        (bytes(8_388_608), "constant", "no picture"),
    ],
)
def test_jsrt_files_that_are_none(tmp_path: Path, data: bytes, reason: str, said: str) -> None:
    (tmp_path / "a.IMG").write_bytes(data)
    with pytest.raises(UnreadableInput, match=said) as caught:
        read_jsrt(tmp_path / "a.IMG")
    assert caught.value.reason == reason


def test_jsrt_lacks_a_mask_or_an_image(scr: Path) -> None:
    (scr / "scratch/fold1/masks/heart/JPCLN001.gif").unlink()
    (scr / "All247images/JPCNN002.IMG").unlink()
    found = {e.image_id: e for e in read_collection(Collection(layout="jsrt", root=str(scr)))}
    assert len(found) == 4
    with pytest.raises(UnreadableInput, match="There is no mask of Heart"):
        make_row(found["JPCLN001"], SIDE)
    with pytest.raises(UnreadableInput, match="a mask of this name, but no image") as caught:
        make_row(found["JPCNN002"], SIDE)
    assert caught.value.reason == "missing"


def test_a_patient_in_both_folds(scr: Path) -> None:
    for organ in ORGANS:
        mask(scr / "scratch/fold2/masks" / organ.lower() / "JPCLN001.gif", side=1024)
    with pytest.raises(PatientInTwoSplits, match=r"JPCLN001 would .* in .*fold1 and in .*fold2"):
        read_collection(Collection(layout="jsrt", root=str(scr), valid=0.0))


def covid(base: Path, tree: str, split: str, group: str, name: str, seed: int) -> None:
    folder = base / split / group
    picture(folder / "images" / f"{name}.png", seed)
    mask(folder / "lung masks" / f"{name}.png", slice(2, 8))
    if tree == "infection":
        mask(folder / "infection masks" / f"{name}.png", slice(3, 3 + 2 * (group == "COVID-19")))


@pytest.fixture
def quex(tmp_path: Path) -> Path:
    """Both trees, the infection tree doubled as it is downloaded, the lung tree flattened."""
    infection = tmp_path / "Infection Segmentation Data" / "Infection Segmentation Data"
    covid(infection, "infection", "Train", "COVID-19", "covid_1", 1)
    covid(infection, "infection", "Train", "Normal", "Normal (1)", 2)
    covid(infection, "infection", "Test", "Non-COVID", "non_COVID (7)", 3)
    lungs = tmp_path / "Lung_Segmentation_Data"
    covid(lungs, "lungs", "Val", "COVID-19", "covid_9", 4)
    covid(lungs, "lungs", "Train", "Non-COVID", "non_COVID (8)", 3)  # a test image by another name
    return tmp_path


def test_covid_qu_ex(quex: Path) -> None:
    found = read_collection(Collection(layout="covid-qu-ex", root=str(quex)))
    assert splits(found) == {
        "train": ["covid_1", "Normal (1)"], "test": ["non_COVID (7)"]
    }  # fmt: skip
    assert rows_of(found[0]) == {"Lungs": [2, 3, 4, 5, 6, 7], "COVID-19 Infection": [3, 4]}
    # An empty mask says that there is no infection: the image was read.
    assert rows_of(found[1]) == {"Lungs": [2, 3, 4, 5, 6, 7], "COVID-19 Infection": []}
    lungs = read_covid_qu_ex(quex, "lungs")
    assert splits(lungs) == {"valid": ["covid_9"], "train": ["non_COVID (8)"]}
    inner = quex / "Infection Segmentation Data" / "Infection Segmentation Data"
    assert splits(read_covid_qu_ex(inner)) == splits(found)


def test_a_group_of_another_name_is_not_passed_over(quex: Path) -> None:
    folder = quex / "Lung_Segmentation_Data/Train"
    (folder / "Non-COVID").rename(folder / "Non_COVID")
    assert len(read_covid_qu_ex(quex, "lungs")) == 2
    (folder / "Non_COVID").rename(folder / "pneumonia")
    with pytest.raises(NoCollection, match="holds pneumonia, which is none of COVID-19, Non-COVID"):
        read_covid_qu_ex(quex, "lungs")


def test_covid_qu_ex_joins_by_name(quex: Path) -> None:
    folder = quex / "Infection Segmentation Data/Infection Segmentation Data/Train/COVID-19"
    (folder / "infection masks/covid_1.png").rename(folder / "infection masks/covid_2.png")
    first, second, *_ = read_covid_qu_ex(quex)
    with pytest.raises(UnreadableInput, match="no mask of COVID-19 Infection"):
        make_row(first, SIDE)
    assert second.image_id == "covid_2"
    with pytest.raises(UnreadableInput, match="but no image"):
        make_row(second, SIDE)


def test_the_real_sample_of_covid_qu_ex() -> None:
    root = Path(__file__).parents[5] / "shared/data/covid_qu_ex_sample"
    if not root.is_dir():
        pytest.skip("the sample of COVID-QU-Ex is not on this machine")
    found = read_collection(Collection(layout="covid-qu-ex", root=str(root)))
    assert len(found) == 12
    rows = [make_row(entry, 256) for entry in found]
    assert {(row.height, row.width, row.split) for row in rows} == {(256, 256, "test")}
    assert all("Lungs" in (row.masks or {}) for row in rows)
    assert all("COVID-19 Infection" in (row.masks or {}) for row in rows)
    infected = {e.image_id for e in found if rows_of(e)["COVID-19 Infection"]}
    assert infected == {name.image_id for name in found if name.image_id.startswith("covid_")}


def test_montgomery(tmp_path: Path) -> None:
    base = tmp_path / "MontgomerySet"
    names = [f"MCUCXR_{number:04d}_0" for number in range(10)]
    for number, name in enumerate(names):
        picture(base / "CXR_png" / f"{name}.png", number)
        mask(base / "ManualMask/leftMask" / f"{name}.png", slice(0, 2))
        mask(base / "ManualMask/rightMask" / f"{name}.png", slice(4, 6))
    wish = Collection(layout="montgomery", root=str(tmp_path), valid=0.2, test=0.3, seed=5)
    found = splits(read_collection(wish))
    assert {name: len(found[name]) for name in found} == {"train": 5, "valid": 2, "test": 3}
    assert sorted(name for part in found.values() for name in part) == names
    assert rows_of(read_collection(wish)[0]) == {"Left Lung": [0, 1], "Right Lung": [4, 5]}


def test_shenzhen_lists_what_was_drawn_on(tmp_path: Path) -> None:
    base = tmp_path / "ChinaSet_AllFiles"
    for number in (1, 2, 3):
        picture(base / "CXR_png" / f"CHNCXR_000{number}_0.png", number)
    for number in (1, 3):
        mask(tmp_path / "drawn" / f"CHNCXR_000{number}_0_mask.png")
    wish = Collection(
        layout="shenzhen", root=str(tmp_path), masks=str(tmp_path / "drawn"), valid=0.0, test=0.0
    )
    found = read_collection(wish)
    assert splits(found) == {"train": ["CHNCXR_0001_0", "CHNCXR_0003_0"]}
    assert rows_of(found[0]) == {"Lungs": [0, 1, 2, 3]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks" / "heart" / f"{name}.png", slice(1, 3))
        mask(tmp_path / "masks" / "Aortic arch" / f"{name}.png", slice(5, 6), value=1)
    return tmp_path


def read(folder: Path) -> list[Entry]:
    return read_collection(Collection(layout="folder", root=str(folder), valid=0.0, test=0.0))


def test_a_folder(folder: Path) -> None:
    first, *_ = read(folder)
    assert rows_of(first) == {"Aortic arch": [5], "Heart": [1, 2]}
    assert first.source == "images/a.png"


def test_a_folder_with_splits_and_patients(folder: Path) -> None:
    for split in ("train", "valid"):
        (folder / split).mkdir()
    for name, split in (("a", "train"), ("b", "train"), ("c", "valid")):
        for kind in ("images", "masks/heart", "masks/Aortic arch"):
            target = folder / split / kind / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{name}.png").rename(target)
    (folder / "patients.csv").write_text("image,patient\na,one\nb,one\nc,two\n")
    found = read(folder)
    assert splits(found) == {"train": ["a", "b"], "valid": ["c"]}
    assert [entry.patient for entry in found] == ["one", "one", "two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image\na\n", "column 'patient': there is no such column"),
        ("image;patient\na;p\n", "column 'image': there is no such column"),
        ("image,patient\na,\n", "row 2: an empty cell"),
        ("image,patient\na,p\nb,p\n", "c is not listed"),
        ("image,patient\na,p\na,q\n", "a has two patients"),
    ],
)
def test_patients_that_cannot_be_used(folder: Path, text: str, said: str) -> None:
    (folder / "patients.csv").write_text(text)
    with pytest.raises(BrokenTable, match=said):
        read(folder)


def test_one_patient_is_in_one_split_only(folder: Path) -> None:
    (folder / "patients.csv").write_text("image,patient\na,p\nb,p\nc,q\n")
    wish = Collection(layout="folder", root=str(folder), valid=0.0, test=0.5)
    found = read_collection(wish)
    assert {e.split for e in found if e.patient == "p"} != {
        e.split for e in found if e.patient == "q"
    }
    assert len({e.split for e in found if e.patient == "p"}) == 1


def test_patients_in_another_encoding(folder: Path) -> None:
    (folder / "patients.csv").write_bytes("image,patient\na,Zoë".encode("latin-1"))
    with pytest.raises(BrokenTable, match="no text in UTF-8"):
        read(folder)


def test_a_structure_that_some_images_have(folder: Path) -> None:
    """It is unknown of the others, and they are kept."""
    (folder / "masks/heart/b.png").unlink()
    mask(folder / "masks/heart/c.png", slice(0, 0))
    assert [rows_of(entry) for entry in read(folder)] == [
        {"Aortic arch": [5], "Heart": [1, 2]},
        {"Aortic arch": [5]},
        {"Aortic arch": [5], "Heart": []},
    ]


def split_folder(root: Path, **splits: str) -> Path:
    """An image and a mask of the heart for each letter of a split."""
    for split, names in splits.items():
        for name in names:
            picture(root / split / "images" / f"{name}.png", ord(name))
            mask(root / split / "masks/heart" / f"{name}.png")
    return root


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "valid").rename(f / "val"), "val is none of the splits train, valid, test"),
        (lambda f: picture(f / "images/d.png"), "holds images beside its splits"),
        (
            lambda f: mask(f / "train/masks/a.png"),
            r"masks holds a\.png itself: give each structure",
        ),
        (lambda f: mask(f / "train/masks/Heart/a.png"), "two folders of Heart"),
        (lambda f: (f / "train/masks/lungs").mkdir(), "lungs holds no mask"),
    ],
)
def test_a_folder_that_is_laid_out_otherwise(
    tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    change(split_folder(tmp_path, train="ab", valid="c"))
    with pytest.raises(NoCollection, match=said):
        read(tmp_path)


def jpeg(folder: Path) -> None:
    """The mask of `a` as a JPEG by name and content, as people save them."""
    file = mask(folder / "masks/heart/a.png")
    with Image.open(file) as image:
        image.convert("L").save(file.with_suffix(".jpg"))
    file.unlink()


def saved(values: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(values).save(folder / "masks/heart/a.png")


GREYS = np.linspace(0, 255, SIDE * SIDE).astype(np.uint8).reshape(SIDE, SIDE)
DRAWN = np.where(GREYS > 127, 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: mask(f / "masks/heart/a.png", value=100), "values 100 besides 0 and 255"),
        (lambda f: mask(f / "masks/heart/a.png", side=8), "differ in size: Aortic arch 16 x 16"),
        (lambda f: (f / "masks/heart/a.png").write_bytes(b"no"), "mask heart/a.png cannot be read"),
        (saved(GREYS), "1, 2, 3, 4, 5, ... besides 0 and 255: masks are black and white, not"),
        (saved(DRAWN // 255 * 2), "values 2 besides 0 and 255: if they are labels, give each"),
        (
            saved(DRAWN // 255 * 252 + GREYS % 4),
            "JPEG leaves such behind. Save it with values below",
        ),
        (saved(DRAWN // 255 * 127), "the values 127 besides 0 and 255: save 127 as 255, as a PNG"),
        (saved(GREYS.astype(np.uint16) * 257), "257, 514, 771, 1028, 1285, ... besides"),
        (saved(np.dstack([DRAWN * 0] * 3 + [DRAWN])), "heart/a.png is transparent in places"),
        (jpeg, r"heart/a\.jpg is a JPEG, which does not keep black and white"),
        (lambda f: [p.unlink() for p in f.glob("masks/*/a.png")], "no mask of it in any folder"),
    ],
)
def test_masks_that_cannot_be_used(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    change(folder)
    with pytest.raises(UnreadableInput, match=said) as caught:
        make_row(read(folder)[0], SIDE)
    assert caught.value.reason == "mask"


@pytest.mark.parametrize("side", [SIDE // 2, SIDE * 2])
def test_masks_of_another_size_than_their_image(folder: Path, side: int) -> None:
    for name in ("heart", "Aortic arch"):
        mask(folder / "masks" / name / "a.png", slice(1, 3), side=side)
    with pytest.raises(MaskSizeError, match=f"are {side} x {side} pixels, its image 16 x 16: give"):
        make_row(read(folder)[0], 32)


def test_masks_of_another_aspect_than_their_image(folder: Path) -> None:
    picture(folder / "images/a.png").unlink()
    Image.fromarray(np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)).save(
        folder / "images/a.png"
    )
    with pytest.raises(MaskSizeError, match="16 x 16 pixels, its image 16 x 24"):
        make_row(read(folder)[0], SIDE)


@pytest.mark.parametrize("value", [1, 255, 65_535])
def test_values_of_foreground(tmp_path: Path, value: int) -> None:
    drawn = (DRAWN > 0) * np.array(value, np.uint16 if value > 255 else np.uint8)
    Image.fromarray(drawn).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), DRAWN > 0)


def test_an_image_in_a_format_that_is_not_read_is_listed(folder: Path) -> None:
    (folder / "images/a.png").rename(folder / "images/a.webp")
    with Image.open(folder / "images/b.png") as image:
        image.save(folder / "images/b.tif")
    (folder / "images/b.png").unlink()
    for entry in read(folder)[:1]:
        assert make_row(entry, SIDE).image_id == "a"  # its content is PNG
    with pytest.raises(UnreadableInput, match="The content is TIFF"):
        make_row(read(folder)[1], SIDE)


def test_two_files_of_one_name(folder: Path) -> None:
    picture(folder / "images/a.jpg")
    with pytest.raises(NoCollection, match=r"a\.jpg and a\.png"):
        read(folder)


@pytest.mark.parametrize("layout", ["jsrt", "covid-qu-ex", "montgomery", "shenzhen", "folder"])
def test_a_folder_of_something_else(tmp_path: Path, layout: str) -> None:
    (tmp_path / "holiday.png").touch()
    wish = Collection(layout=layout, root=str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(NoCollection, match=str(tmp_path)):
        read_collection(wish)
    for place in ("images", "masks/heart"):
        (tmp_path / place).mkdir(parents=True)
    with pytest.raises(NoCollection, match=str(tmp_path)):
        read_collection(wish)
    gone = Collection(layout=layout, root=str(tmp_path / "gone"))  # type: ignore[arg-type]
    with pytest.raises(NoCollection, match="there is no folder"):
        read_collection(gone)


def test_a_mask_is_the_union_of_its_files(tmp_path: Path) -> None:
    left, right = mask(tmp_path / "l.png", slice(0, 2)), mask(tmp_path / "r.png", slice(1, 3))
    found = read_mask_files(MaskFiles({"Lungs": (str(left), str(right))}))
    drawn = masks.decode(found.counts["Lungs"], SIDE, SIDE)
    assert np.flatnonzero(drawn.any(axis=1)).tolist() == [0, 1, 2]
    assert read_mask(left).sum() == 2 * SIDE


def test_a_few_images_are_of_every_split(tmp_path: Path) -> None:
    for split, number in {"test": 2, "train": 8, "valid": 2}.items():
        for n in range(number):
            picture(tmp_path / split / "images" / f"{split}{n}.png")
            mask(tmp_path / split / "masks/heart" / f"{split}{n}.png", slice(1, 3))

    def read_some(limit: int | None) -> list[Entry]:
        return read_collection(Collection(layout="folder", root=str(tmp_path), limit=limit))

    whole = read_some(None)
    assert {split: len(names) for split, names in splits(read_some(6)).items()} == {
        "train": 4, "valid": 1, "test": 1
    }  # fmt: skip
    assert [entry for entry in whole if entry in read_some(6)] == read_some(6)
    assert read_some(12) == read_some(99) == whole
    assert len(read_some(1)) == 1
