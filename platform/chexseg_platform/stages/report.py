"""The report: one HTML page of one or more runs.

Everything on it is read from finished artifacts, but for the maps of the cases that are shown. The
pseudo-labels keep them on request only, so Grad-CAM's are made again, a forward an image, by the
classifiers that made the pseudo-masks; of slower methods the page shows mask and peak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from chexseg_platform import tracking
from chexseg_platform.artifacts import Artifact, CorruptArtifact, Workspace
from chexseg_platform.config import Saliency
from chexseg_platform.data import geometry
from chexseg_platform.data.pictures import Picture, pictures_of
from chexseg_platform.report import gallery, page
from chexseg_platform.report.find import Found, find, found_as
from chexseg_platform.report.finetuning import grid_of
from chexseg_platform.report.section import section_of
from chexseg_platform.report.sources import Sources, sources_of

Say = Callable[[str], None]

if TYPE_CHECKING:  # a context knows Ray, and the page needs none
    from chexseg_platform.saliency.pseudotable import Images
    from chexseg_platform.stages.context import Context

PAGE = "report.html"
CHEAP, MAPS = "grad-cam", "maps"


def report(workspace: Workspace, runs: Sequence[str], out: Path, *, maps: bool = True) -> Path:
    """Write the report of some runs.

    Args:
        workspace: where names and MLflow's ids are looked up.
        runs: see `report.find`.
        maps: whether saliency maps that were not kept are made again.

    Raises:
        NoSuchRun: naming the run that is none.
        NotWritable: if the page cannot be written there.
    """
    page.check(out)
    found = {item.prints: item for item in (find(run, workspace) for run in runs)}
    page.write(page_of(list(found.values()), maps=maps), out)
    return out


def report_of_run(
    context: Context, name: str, artifact: Artifact, run: tracking.RunRef, say: Say
) -> None:
    """Make the page of a comparison or a fine-tuning just finished, and log it with its run.

    Once: a page that is there stands, so that repeating a run changes nothing. The run has all
    its numbers by now, so what goes wrong here is said and harms nothing.
    """
    storage = context.workspace.storage.join(f"pages/{artifact.fingerprint}")
    try:
        if not storage.exists(PAGE):
            found = found_as(artifact, name, context.workspace)
            storage.write(PAGE, page_of([found]).encode())
        run.text(PAGE, storage.read(PAGE).decode())
    except Exception as error:
        say(f"no report could be made ({error}); `chexseg-platform report {name}` tries again")
        return
    say(f"report  {storage.uri}/{PAGE}")


def page_of(found: Sequence[Found], *, maps: bool = True) -> str:
    """Return the report of what was found."""
    pages, untracked = _pages(found)
    side = gallery.SIDE if len(found) == 1 else gallery.SIDE_OF_SEVERAL
    heats = heat_maps if maps else lambda sources, choices: {}
    sections = list[page.Shown]()
    for item in found:
        if item.comparison or item.sweep:
            number = len(sections) + 1
            made = section_of(item, sources_of(item), pages, heats, number=number, side=side)
            sections.append(made)
        if item.finetuning:
            sections.append(grid_of(item, pages, number=len(sections) + 1))
    return page.render(sections, untracked=untracked)


def _pages(found: Sequence[Found]) -> tuple[list[tracking.Page], str]:
    """The runs' pages in MLflow, and why there are none."""
    pages: list[tracking.Page] = []
    for uri in dict.fromkeys(item.workspace.uri for item in found):
        try:
            pages += tracking.run_pages(uri)
        except tracking.StoreAway as error:
            return [], f"{error}."
    return pages, "" if pages else "These runs were not tracked in MLflow, so none is linked."


def heat_maps(sources: Sources, choices: Sequence[gallery.Choice]) -> gallery.Heat:
    """Return the maps of some cases, kept or made again; empty where that is not possible."""
    made, dataset = sources.pseudolabels, sources.dataset
    if made is None or dataset is None or not choices:
        return {}
    settings = Saliency.model_validate(made.manifest["config"])
    if settings.maps != "none":
        return _kept(made, dataset, choices)
    behind = [name for name in made.manifest["inputs"] if name.startswith("classifier")]
    complete = len(sources.classifiers) == len(behind) and bool(behind)
    if settings.refine == "irnet" and sources.boundary is None:
        complete = False
    if settings.method != CHEAP or not complete:
        return {}
    try:
        return _explained(settings, sources, pictures_of(dataset, _ids(choices)), choices)
    except CorruptArtifact:
        sources.missing.append("the classifiers cannot be read, so no map was made")
        return {}


def _ids(choices: Sequence[gallery.Choice]) -> list[str]:
    return list(dict.fromkeys(choice.image_id for choice in choices))


def _kept(
    made: Artifact, dataset: Artifact, choices: Sequence[gallery.Choice]
) -> dict[tuple[str, str], NDArray[np.floating]]:
    """Maps that the pseudo-labels hold, brought to the frame."""
    wanted = {(choice.image_id, choice.finding) for choice in choices}
    pictures, ids = pictures_of(dataset, _ids(choices)), pa.array(_ids(choices))
    found: dict[tuple[str, str], NDArray[np.floating]] = {}
    for part in made.parts(f"{MAPS}/"):
        mine = pc.is_in(made.table(part.name, ["image_id"])["image_id"], ids)
        if not pc.any(mine).as_py():
            continue
        for row in made.table(part.name).filter(mine).to_pylist():
            key = (row["image_id"], row["finding"])
            if key in wanted:
                heat = np.frombuffer(row["heat"], np.float16).reshape(row["height"], row["width"])
                found[key] = _framed(heat.astype(np.float32), pictures[key[0]])
    return found


def _framed(heat: NDArray[np.float32], seen: Picture) -> NDArray[np.float32]:
    """A map of the frame's cells, or of the image at its own size, in the frame."""
    box = seen.box
    if heat.shape == (box.height, box.width):
        return geometry.letterbox(heat, box)
    import torch

    from chexseg_platform.saliency.threshold import upsample

    return upsample(torch.from_numpy(heat)[None, None], box.size)[0, 0].numpy()


def _explained(
    settings: Saliency,
    sources: Sources,
    pictures: Mapping[str, Picture],
    choices: Sequence[gallery.Choice],
) -> dict[tuple[str, str], NDArray[np.floating]]:
    """Maps made again, as they were made for the pseudo-masks."""
    import torch

    from chexseg_platform.models.batch import forward_batch
    from chexseg_platform.saliency.threshold import upsample
    from chexseg_platform.stages.models import labeller_of

    # No mask is cut here, so any threshold does: tuned ones need not be read.
    uncut = settings.model_copy(update={"threshold": "otsu"})
    cpu = torch.device("cpu")
    labeller = labeller_of(uncut, sources.classifiers, sources.boundary, device=cpu)
    size = int(sources.dataset.summary["size"]) if sources.dataset else 0
    batch, ids = forward_batch(cpu, size), list(pictures)
    found: dict[tuple[str, str], NDArray[np.floating]] = {}
    for start in range(0, len(ids), batch):
        some = ids[start : start + batch]
        heat_BKhw = labeller.explain(_images(some, pictures)).heat_BKhw
        for choice in choices:
            if choice.image_id in some:
                place, finding = some.index(choice.image_id), settings.names.index(choice.finding)
                heat = upsample(heat_BKhw[place : place + 1, finding : finding + 1], size)
                found[choice.image_id, choice.finding] = heat[0, 0].numpy()
    return found


def _images(ids: Sequence[str], pictures: Mapping[str, Picture]) -> Images:
    """Pictures as a labeller takes them."""
    from chexseg_platform.saliency.pseudotable import Images

    some = [pictures[image_id] for image_id in ids]
    boxes = [geometry.content(seen.box) for seen in some]
    content = [[rows.start, rows.stop, columns.start, columns.stop] for rows, columns in boxes]
    grey, labels = (np.stack([getattr(s, name) for s in some]) for name in ("image", "labels"))
    return Images(ids, [""] * len(some), grey, np.array(content), labels)
