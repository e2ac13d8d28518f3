"""A phantom view as a DICOM file: 12 bits in 16, MONOCHROME1 or 2, nothing that names a person.

Only what a reader of pixels needs is written, with values that are plainly made up. Unique
identifiers are derived from the image's name, so that the same phantom has the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)


def write_dicom(path: Path, pixels: NDArray[np.uint16], photometric: str, name: str) -> None:
    """Write 12-bit `pixels` (H x W, 0 to 4095, bright where dense) as `photometric`.

    For MONOCHROME1 the stored values are inverted, as the standard has it: zero is white.
    """
    stored = pixels if photometric == "MONOCHROME2" else np.uint16(4095) - pixels
    uid = UID(generate_uid(entropy_srcs=["chexseg-platform phantom", name]))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    data.StudyInstanceUID = data.SeriesInstanceUID = uid
    data.PatientName = data.PatientID = data.PatientBirthDate = data.StudyDate = ""
    data.Modality, data.Manufacturer = "DX", "PHANTOM"
    data.SeriesDescription = "Synthetic chest phantom, not a person"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    data.PixelData = stored.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
