"""What a start says."""

import pytest
from chexseg_platform.starts import family_of, folder_of


@pytest.mark.parametrize(
    ("init", "folder", "family"),
    [
        ("random", None, None),
        ("segmenter:", None, None),
        ("segmenter:s3://b/x", "s3://b/x", None),
        ("pretrained:doll", None, "doll"),
        ("encoder:grad-cam: x", None, "grad-cam: x"),
        ("pretrained:", None, None),
        ("encoder", None, None),
        ("other:x", None, None),
    ],
)
def test_folders_and_families(init: str, folder: str | None, family: str | None) -> None:
    assert (folder_of(init), family_of(init)) == (folder, family)
