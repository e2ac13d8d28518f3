"""Pseudo-labels of a classifier whose maps are known: its feature maps are its image's cells."""

import numpy as np
import pytest
import torch
from chexseg_platform.config import Saliency
from chexseg_platform.data import masks
from chexseg_platform.findings import FINDING_TO_OBSERVATION, FINDINGS, OBSERVATIONS
from chexseg_platform.models.classifier import Classifier, ClassifierSpec
from chexseg_platform.models.preprocess import Preprocess
from chexseg_platform.saliency.boost import edge_aware, ignore_band, pooled, superpixels
from chexseg_platform.saliency.pseudolabel import PseudoLabeller, tune_thresholds
from chexseg_platform.saliency.pseudotable import (
    IGNORED,
    IMAGE_SCHEMA,
    MAP_SCHEMA,
    MASK_SCHEMA,
    Images,
)
from chexseg_platform.saliency.seedlabel import SEED_SCHEMA, SeedLabeller
from chexseg_platform.saliency.seeds import GUIDE_REACH, GUIDE_SMOOTHNESS
from chexseg_platform.saliency.threshold import box_mean, heat_to_mask, upsample
from torch import nn

CPU = torch.device("cpu")
SIZE, CELLS = 32, 4
EDEMA, PNEUMOTHORAX = FINDINGS.index("Edema"), FINDINGS.index("Pneumothorax")
PLAIN = Preprocess(mean=0.0, std=1.0)


class Cells(nn.Module):
    """Two feature maps of 4 x 4 cells: the mean level of each cell, and a constant one."""

    out_channels = (1, 2)

    def forward(self, x):
        level = nn.functional.avg_pool2d(x, SIZE // CELLS)
        return [x, torch.cat([level, torch.ones_like(level)], dim=1)]


def classifier(weights, bias=0.0):
    """`weights`: observation -> (weight of the level, weight of the constant)."""
    model = Classifier(ClassifierSpec(encoder="resnet18"), Cells())
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(bias)
        for name, pair in weights.items():
            model.head.weight[OBSERVATIONS.index(name)] = torch.tensor(pair)
    return model


def images(*grids, labels=None, content=None, sides=None):
    """Images of 4 x 4 cells of even grey; every label positive unless given."""
    grey = np.stack(
        [np.kron(np.array(grid, np.uint8), np.ones((8, 8), np.uint8)) for grid in grids]
    )
    count = len(grids)
    whole = np.tile([0, SIZE, 0, SIZE], (count, 1)) if content is None else np.array(content)
    every = np.ones((count, 14), np.float32) if labels is None else labels
    ids = [f"image {n}" for n in range(count)]
    return Images(ids, ["train"] * count, grey, whole, every, sides)


def corner(level=200):
    grid = np.zeros((CELLS, CELLS), int)
    grid[:2, :2] = level
    return grid


def by_finding(table, image=0):
    rows = [row for row in table.to_pylist() if row["image_id"] == f"image {image}"]
    assert [row["finding"] for row in rows] == list(FINDINGS)
    return {row["finding"]: row for row in rows}


def labeller(*models, thresholds=None, **settings):
    wish = Saliency(**{"explain": "logit", **settings})
    return PseudoLabeller([(model, PLAIN) for model in models], wish, CPU, thresholds)


EDEMA_ONLY = classifier({"Edema": (2.0, 0.0)})


def test_maps_and_probabilities_by_hand():
    heat, probability, *_ = labeller(EDEMA_ONLY).explain(images(corner(204)))
    assert heat.shape == (1, 10, CELLS, CELLS)
    assert probability.shape == (1, 14)
    wanted = torch.zeros(CELLS, CELLS)
    wanted[:2, :2] = 2.0 * 0.8 / 16
    assert torch.allclose(heat[0, EDEMA], wanted)
    assert not heat[0, PNEUMOTHORAX].any()
    z = 2.0 * 0.8 / 4  # a quarter of the image is at 0.8
    assert probability[0, OBSERVATIONS.index("Edema")].item() == pytest.approx(1 / (1 + np.exp(-z)))
    p = probability[0, OBSERVATIONS.index("Edema")]
    scaled = labeller(EDEMA_ONLY, explain="probability").explain(images(corner(204))).heat_BKhw
    assert torch.allclose(scaled[0, EDEMA], wanted * p * (1 - p))


def test_observations_get_masks_where_the_settings_ask_for_them():
    model = classifier({"Edema": (2.0, 0.0), "Fracture": (1.0, 0.0)})
    labels = np.full((1, 14), np.nan, np.float32)
    labels[0, [OBSERVATIONS.index(name) for name in ("Edema", "Fracture")]] = 1
    labels[0, OBSERVATIONS.index("Pneumonia")] = -1
    wish = {"classes": "observations", "maps": "model", "blank": "unknown"}
    table, _, maps = labeller(model, **wish)(images(corner(), labels=labels))
    rows = {row["finding"]: row for row in table.to_pylist()}
    assert list(rows) == list(OBSERVATIONS[1:])
    found = {name for name, row in rows.items() if row["counts"] is not None}
    assert found == {"Edema", "Fracture"}
    assert {name for name, row in rows.items() if row["known"]} == found
    assert rows["Edema"]["counts"] == rows["Fracture"]["counts"]
    assert maps["finding"].to_pylist() == ["Edema", "Fracture"]
    ten = by_finding(labeller(model)(images(corner(), labels=labels))[0])
    assert ten["Edema"]["counts"] == rows["Edema"]["counts"]


def test_maps_are_averaged_over_a_box():
    batch = images(corner(), 255 - corner(), content=[[0, 32, 0, 32], [4, 28, 0, 32]])
    plain = labeller(EDEMA_ONLY).explain(batch).heat_BKhw
    boxed = labeller(EDEMA_ONLY, box=0.2).explain(batch).heat_BKhw
    content = torch.from_numpy(batch.content)
    assert torch.equal(boxed, box_mean(upsample(plain, SIZE), 0.2, content))
    row = by_finding(labeller(EDEMA_ONLY, box=0.2)(batch)[0])["Edema"]
    cut = heat_to_mask(boxed[:1], SIZE, content_B4=content[:1]).mask_BKSS[0, EDEMA]
    assert np.array_equal(masks.decode(row["counts"], SIZE, SIZE), cut.numpy())


@pytest.mark.parametrize("threshold", ["otsu", 0.5])
def test_a_mask_where_the_map_is_high(threshold):
    table, probabilities = labeller(EDEMA_ONLY, threshold=threshold)(images(corner()))
    assert table.schema == MASK_SCHEMA
    assert probabilities.schema == IMAGE_SCHEMA
    row = by_finding(table)["Edema"]
    mask = masks.decode(row["counts"], SIZE, SIZE)
    assert mask[:14, :14].all()
    assert not mask[17:].any()
    assert not mask[:, 17:].any()
    assert (row["known"], row["allowed"], row["status"]) == (True, True, "mask")
    assert row["peak_row"] < 16
    assert row["peak_column"] < 16
    if threshold == 0.5:
        assert row["threshold"] == pytest.approx(0.5, abs=1 / 255)
        # Across and down the map falls from 1 to 0 between the centres of two cells, 8 apart.
        ramp = np.clip(1 - (np.arange(SIZE) - 11.5) / 8, 0, 1)
        np.testing.assert_array_equal(mask, np.floor(255 * np.outer(ramp, ramp)) > 128)
    p = probabilities.to_pylist()[0]["probabilities"]
    assert p[OBSERVATIONS.index("Edema")] == pytest.approx(row["probability"])
    assert p[OBSERVATIONS.index("Fracture")] == 0.5


def test_a_higher_threshold_cuts_a_smaller_mask():
    areas = []
    for threshold in (0.1, 0.5, 0.9, 1.0):
        table, _ = labeller(EDEMA_ONLY, threshold=threshold)(images(corner()))
        row = by_finding(table)["Edema"]
        areas.append(masks.area(row["counts"], SIZE, SIZE) if row["counts"] else 0)
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == 4
    assert (row["status"], row["counts"], row["known"]) == ("empty", None, True)


def test_thresholds_of_each_finding():
    model = classifier({"Edema": (1.0, 0.0), "Pneumothorax": (1.0, 0.0), "Atelectasis": (1.0, 0.0)})
    thresholds = [float("nan")] * 10
    thresholds[EDEMA], thresholds[PNEUMOTHORAX] = 0.2, 0.8
    tuned = labeller(model, threshold="tuned", thresholds=thresholds)
    rows = by_finding(tuned(images(corner()))[0])
    otsu = by_finding(labeller(model)(images(corner()))[0])
    assert rows["Edema"]["threshold"] == pytest.approx(0.2, abs=1 / 255)
    assert rows["Pneumothorax"]["threshold"] == pytest.approx(0.8, abs=1 / 255)
    areas = [masks.area(rows[name]["counts"], SIZE, SIZE) for name in ("Edema", "Pneumothorax")]
    assert areas[0] > 256 > areas[1]
    assert rows["Atelectasis"] == otsu["Atelectasis"]  # could not be tuned
    with pytest.raises(ValueError, match="none were given"):
        labeller(model, threshold="tuned")


def test_statuses_say_why_there_is_no_mask():
    model = classifier({
        "Edema": (1.0, 0.0), "Pneumothorax": (0.0, 1.0), "Atelectasis": (-1.0, 0.0),
        "Lung Lesion": (float("nan"), 0.0), "Consolidation": (float("inf"), 0.0),
    })  # fmt: skip
    labels = np.ones((1, 14), np.float32)
    labels[0, OBSERVATIONS.index("Cardiomegaly")] = 0
    labels[0, OBSERVATIONS.index("Support Devices")] = -1
    rows = by_finding(labeller(model)(images(corner(), labels=labels))[0])
    told = {name: (row["status"], row["known"], row["allowed"]) for name, row in rows.items()}
    assert told["Edema"] == ("mask", True, True)
    assert told["Pneumothorax"] == ("flat", False, True)
    assert told["Atelectasis"] == ("flat", False, True)
    assert told["Lung Lesion"] == ("not finite", False, True)
    assert told["Consolidation"] == ("not finite", False, True)
    assert told["Cardiomegaly"] == ("not allowed", True, False)
    assert told["Support Devices"] == ("not allowed", False, False)
    for name, row in rows.items():
        assert (row["counts"] is None) == (name != "Edema")
        if row["status"] != "mask":
            assert row["threshold"] is None
    for name in ("Pneumothorax", "Atelectasis", "Lung Lesion", "Consolidation"):
        assert rows[name]["peak_row"] is None
        assert rows[name]["peak_column"] is None


def test_a_broken_classifier_labels_nothing_as_empty():
    model = classifier({"Edema": (float("nan"), 0.0)})
    for gate in ("probability", "both"):
        row = by_finding(labeller(model, gate=gate)(images(corner()))[0])["Edema"]
        assert (row["known"], row["counts"], row["status"]) == (False, None, "not finite")


def test_the_gate_is_asked():
    model = classifier({"Edema": (2.0, 0.0), "Pneumothorax": (2.0, -2.0)})
    rows = by_finding(labeller(model, gate="probability", cutoff=0.5)(images(corner()))[0])
    assert (rows["Edema"]["allowed"], rows["Edema"]["status"]) == (True, "mask")
    assert (rows["Pneumothorax"]["allowed"], rows["Pneumothorax"]["known"]) == (False, True)


def test_several_models_are_averaged_before_the_cut():
    first, second = classifier({"Edema": (1.0, 0.0)}), classifier({"Edema": (3.0, 0.0)}, bias=1.0)
    inputs = images(corner(), corner(100))
    each = [labeller(m).explain(inputs) for m in (first, second)]
    heats, probabilities, *_ = zip(*each, strict=True)
    heat, probability, *_ = labeller(first, second).explain(inputs)
    assert torch.allclose(heat, (heats[0] + heats[1]) / 2)
    assert torch.allclose(probability, (probabilities[0] + probabilities[1]) / 2)
    assert not torch.allclose(probabilities[0], probabilities[1])
    # One model alone finds nothing of Pneumothorax; the mean of both is still a map.
    third = classifier({"Pneumothorax": (1.0, 0.0)})
    rows = by_finding(labeller(first, third)(inputs)[0], image=1)
    assert rows["Pneumothorax"]["status"] == rows["Edema"]["status"] == "mask"


def test_a_model_with_larger_scores_has_no_more_say_once_scaled():
    loud, even = classifier({"Edema": (2000.0, 0.0)}), classifier({"Edema": (0.0, 1.0)})
    plain = labeller(loud, even).explain(images(corner())).heat_BKhw[0, EDEMA]
    assert plain[-1, -1] < 0.01 * plain[0, 0]
    own = labeller(loud, even, scale="maximum").explain(images(corner())).heat_BKhw[0, EDEMA]
    assert own[0, 0].item() == pytest.approx(1.0)
    assert own[-1, -1].item() == pytest.approx(0.5)


def test_models_are_weighted_by_their_aurocs():
    blind = classifier({"Edema": (0.0, 1.0)})  # an even map, wherever the image is bright
    wish = Saliency(explain="logit", combine="auroc")
    pair = [(EDEMA_ONLY, PLAIN), (blind, PLAIN)]
    good = PseudoLabeller(pair, wish, CPU, aurocs=[[0.9] * 10, [0.5] * 10])
    alone = labeller(EDEMA_ONLY).explain(images(corner())).heat_BKhw
    assert torch.allclose(good.explain(images(corner())).heat_BKhw, alone)
    even = PseudoLabeller(pair, wish, CPU, aurocs=[[0.8] * 10, [0.8] * 10])
    plain = labeller(EDEMA_ONLY, blind).explain(images(corner())).heat_BKhw
    assert torch.allclose(even.explain(images(corner())).heat_BKhw, plain)
    with pytest.raises(ValueError, match="AUROC of every model"):
        PseudoLabeller(pair, wish, CPU, aurocs=[[0.9] * 10])


def test_a_mask_of_small_regions_is_empty():
    table, _ = labeller(EDEMA_ONLY, smallest=0.9)(images(corner()))
    assert by_finding(table)["Edema"]["status"] == "empty"
    table, _ = labeller(EDEMA_ONLY, smallest=0.1, threshold="mass", mass=0.7)(images(corner()))
    assert by_finding(table)["Edema"]["status"] == "mask"


def test_padding_takes_no_part():
    grid = np.full((CELLS, CELLS), 255)
    grid[1:3] = [[100, 0, 0, 0], [0, 0, 0, 0]]
    inputs = images(grid, content=[[8, 24, 0, 32]])
    # Without normalisation of its own this classifier would see the padding; it is zeroed.
    row = by_finding(labeller(EDEMA_ONLY)(inputs)[0])["Edema"]
    mask = masks.decode(row["counts"], SIZE, SIZE)
    assert not mask[:8].any()
    assert not mask[24:].any()
    assert mask[10, 2]
    assert (8 <= row["peak_row"] < 16, row["peak_column"] < 8) == (True, True)


class FinerCells(nn.Module):
    """As `Cells`, of half their side."""

    out_channels = (1, 2)

    def forward(self, x):
        level = nn.functional.avg_pool2d(x, SIZE // CELLS // 2)
        return [x, torch.cat([level, torch.ones_like(level)], dim=1)]


def test_maps_of_different_encoders_are_averaged_on_the_finer_grid():
    coarse, fine = classifier({"Edema": (2.0, 0.0)}), classifier({"Edema": (2.0, 0.0)})
    fine.encoder = FinerCells()
    heat = labeller(coarse, fine).explain(images(corner(204))).heat_BKhw
    assert heat.shape == (1, 10, 2 * CELLS, 2 * CELLS)
    # In the corner both say 0.8 x 2 of a cell: a 16th of the image, and a 64th.
    assert heat[0, EDEMA, 0, 0].item() == pytest.approx((1.6 / 16 + 1.6 / 64) / 2)


def test_maps_that_are_kept_by_hand():
    label = labeller(EDEMA_ONLY, maps="model")
    *_, maps = label(images(corner(), np.zeros((CELLS, CELLS), int)))
    assert list(label.schemas) == ["masks", "images", "maps"]
    assert maps.schema == MAP_SCHEMA
    # The second image's maps are flat, and those of other findings too.
    (row,) = maps.to_pylist()
    assert (row["image_id"], row["finding"]) == ("image 0", "Edema")
    heat = np.frombuffer(row["heat"], np.float16).reshape(row["height"], row["width"])
    assert heat.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_map_at_original_size_lies_where_the_finding_is():
    # A wide image, 64 x 128, letterboxed to rows 8 to 24. Its left end is bright: a centre crop
    # (columns 32 to 96) stretched over the image would show nothing there.
    grid = np.zeros((CELLS, CELLS), int)
    grid[1:3, 0] = 255
    wide = images(grid, content=[[8, 24, 0, 32]], sides=np.array([[64, 128]]))
    *_, maps = labeller(EDEMA_ONLY, maps="original")(wide)
    (row,) = maps.to_pylist()
    heat = np.frombuffer(row["heat"], np.float16).reshape(row["height"], row["width"])
    assert heat.shape == (64, 128)
    columns = heat.mean(axis=0)
    assert columns[:16].min() > 0.5
    assert columns[56:].max() == 0
    # Half of the maximum is reached where the bright cell ends, at a quarter of the width.
    assert abs(int(np.argmax(columns < columns.max() / 2)) - 32) <= 2
    with pytest.raises(ValueError, match="need the images' heights and widths"):
        labeller(EDEMA_ONLY, maps="original")(images(grid))


def test_a_batch_too_large_for_its_budget_is_cut():
    inputs = images(corner(), corner(90), corner(30))
    settings = Saliency(method="gradient", threshold=0.5)
    model = classifier({"Edema": (2.0, 0.0)})
    whole, cut = (
        PseudoLabeller([(model, PLAIN)], settings, CPU, budget=budget)
        for budget in (1 << 30, 4 * 14 * SIZE**2 * 4)
    )
    assert [len(part.ids) for part in cut.cut(inputs)] == [1, 1, 1]
    (few, _), (all_, _) = cut(inputs), whole(inputs)
    assert few.drop_columns("probability") == all_.drop_columns("probability")
    np.testing.assert_allclose(few["probability"], all_["probability"], rtol=1e-6)


def test_no_image_gives_empty_tables():
    none = Images(
        [], [], np.zeros((0, SIZE, SIZE), np.uint8), np.zeros((0, 4), int), np.zeros((0, 14))
    )
    assert [table.num_rows for table in labeller(EDEMA_ONLY)(none)] == [0, 0]


def test_a_batch_is_its_images_one_by_one():
    model = classifier({name: (0.5 + k, 0.1) for k, name in enumerate(OBSERVATIONS)})
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, 255, (CELLS, CELLS)) for _ in range(3)]
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], (3, 14)).astype(np.float32)
    label = labeller(model)
    whole = label(images(*grids, labels=labels))[0].drop_columns("image_id")
    for number, grid in enumerate(grids):
        alone = label(images(grid, labels=labels[[number]]))[0].drop_columns("image_id")
        same = whole.slice(10 * number, 10)
        np.testing.assert_allclose(alone["probability"], same["probability"], rtol=1e-6)
        assert alone.drop_columns("probability") == same.drop_columns("probability")


def brute_force(heat, truth):
    """Best pooled IoU of one finding over all cuts of images where it is, maps cut above t."""
    best = -1.0
    for level in range(255):
        both = either = 0
        for map_, drawn in zip(heat, truth, strict=True):
            if not drawn.any():
                continue
            unit = (map_ - map_.min()) / (map_.max() - map_.min())
            cut = np.floor(unit * 255) > level
            both += (cut & drawn).sum()
            either += (cut | drawn).sum()
        best = max(best, both / either)
    return best


def test_tuned_thresholds_are_the_best_there_are():
    model = classifier({"Edema": (1.0, 0.0), "Pneumothorax": (2.0, 0.0)})
    rng = np.random.default_rng(1)
    grids = [rng.integers(0, 255, (CELLS, CELLS)) for _ in range(4)]
    truth = np.zeros((4, 10, SIZE, SIZE), bool)
    truth[0, EDEMA, :12, :20] = truth[1, EDEMA, 8:30, 4:9] = True
    truth[2, PNEUMOTHORAX, 20:, 20:] = truth[0, PNEUMOTHORAX, 3:9] = True
    label = labeller(model, threshold="tuned", thresholds=[0.5] * 10)
    parts = [(images(*grids[:3]), truth[:3]), (images(*grids[3:]), truth[3:])]
    thresholds, ious = tune_thresholds(label, parts)
    for k in (EDEMA, PNEUMOTHORAX):
        heat = label.explain(images(*grids)).heat_BKhw
        full = nn.functional.interpolate(heat, size=(SIZE, SIZE), mode="bilinear")[:, k].numpy()
        assert ious[k] == pytest.approx(brute_force(full, truth[:, k]), abs=1e-6)
        # The threshold that is returned is the one that cuts so.
        labels = np.zeros((4, 14), np.float32)
        labels[:, FINDING_TO_OBSERVATION[k]] = truth[:, k].any((1, 2))
        cut = labeller(model, threshold="tuned", thresholds=thresholds)
        rows = [
            r
            for r in cut(images(*grids, labels=labels))[0].to_pylist()
            if r["finding"] == FINDINGS[k]
        ]
        made = np.stack([
            masks.decode(r["counts"], SIZE, SIZE) if r["counts"] else np.zeros((SIZE, SIZE), bool)
            for r in rows
        ])  # fmt: skip
        there = truth[:, k].any((1, 2))
        pooled = (made & truth[:, k])[there].sum() / (made | truth[:, k])[there].sum()
        assert pooled == pytest.approx(ious[k], abs=1e-6)
    others = [k for k in range(10) if k not in (EDEMA, PNEUMOTHORAX)]
    assert np.isnan([thresholds[k] for k in others]).all()
    assert np.isnan([ious[k] for k in others]).all()


def test_nothing_to_tune_on_is_said():
    label = labeller(EDEMA_ONLY, threshold="tuned", thresholds=[0.5] * 10)
    with pytest.raises(ValueError, match=r"no validation image has expert masks\. Add truth"):
        tune_thresholds(label, [])


class Border(nn.Module):
    """A boundary network that sees one: between the left and the right half."""

    def boundaries(self, x):
        edge = torch.zeros(len(x), SIZE // 4, SIZE // 4)
        edge[:, :, SIZE // 8] = 1.0
        return edge


def refining(model, **settings):
    wish = Saliency(explain="logit", refine="irnet", irnet={"steps": 40}, **settings)
    return PseudoLabeller([(model, PLAIN)], wish, CPU, boundary=(Border(), PLAIN))


def test_maps_are_spread_up_to_the_boundary_and_no_further():
    label = refining(EDEMA_ONLY)
    heat = label.explain(images(corner())).heat_BKhw[0, EDEMA]
    assert heat.shape == (SIZE // 4, SIZE // 4)
    start = labeller(EDEMA_ONLY).explain(images(corner())).heat_BKhw[0, EDEMA]
    assert start[3, 0] == 0
    assert heat[-1, : SIZE // 8].min() > 0  # down its own half
    assert heat[:, SIZE // 8 + 1 :].max() < 0.1 * heat[:, : SIZE // 8].min()
    mask = masks.decode(by_finding(label(images(corner()))[0])["Edema"]["counts"], SIZE, SIZE)
    assert mask[:, :12].mean() > 0.5
    assert not mask[:, 20:].any()


def test_a_map_that_is_no_number_stays_one_that_is_told():
    broken = classifier({"Edema": (float("nan"), 0.0)})
    assert by_finding(refining(broken)(images(corner()))[0])["Edema"]["status"] == "not finite"


class BrokenBorder(Border):
    """As `Border`, but the first image's boundaries are no numbers."""

    def boundaries(self, x):
        edge = super().boundaries(x)
        edge[0, 0, 0] = float("nan")
        return edge


def test_boundaries_that_are_no_numbers_cost_their_image_and_no_other():
    label = refining(EDEMA_ONLY)
    sound = by_finding(label(images(corner(), corner()))[0], image=1)
    label.boundary = (BrokenBorder(), PLAIN)
    (table, _) = label(images(corner(), corner()))
    assert {row["status"] for row in by_finding(table).values()} == {"not finite"}
    assert by_finding(table, image=1) == sound
    assert sound["Edema"]["status"] == "mask"


def test_a_flat_map_gets_no_shape_from_a_boundary():
    flat = classifier({"Edema": (0.0, 1.0)})
    assert by_finding(refining(flat)(images(corner()))[0])["Edema"]["status"] == "flat"


class FineMaps(nn.Module):
    """A single map of 32 x 32 cells: the image itself."""

    out_channels = (1, 2)

    def forward(self, x):
        return [x, torch.cat([x, torch.ones_like(x)], dim=1)]


def test_what_lies_between_the_centres_of_irnets_cells_counts():
    model = classifier({"Edema": (1.0, 0.0)})
    model.encoder = FineMaps()
    one = images(np.zeros((CELLS, CELLS), int))
    one.grey[0, 0, 0] = 255  # the corner of a cell of 4 x 4 pixels, next to no centre
    label = refining(model, threshold=0.5)
    assert label.explain(one).heat_BKhw[0, EDEMA].max() > 0
    assert by_finding(label(one)[0])["Edema"]["status"] == "mask"


def test_a_network_without_refinement_or_the_reverse():
    with pytest.raises(ValueError, match="only with it"):
        labeller(EDEMA_ONLY, refine="irnet")
    with pytest.raises(ValueError, match="only with it"):
        PseudoLabeller([(EDEMA_ONLY, PLAIN)], Saliency(), CPU, boundary=(Border(), PLAIN))


def test_seeds_of_allowed_maps():
    labels = np.zeros((2, 14), np.float32)
    labels[0, OBSERVATIONS.index("Edema")] = labels[1, OBSERVATIONS.index("Pneumothorax")] = 1
    wish = {"refine": "none", "foreground": 0.9, "background": 0.1}
    make = SeedLabeller(labeller(EDEMA_ONLY, irnet=wish))
    (table,) = make(images(corner(), corner(), labels=labels))
    assert table.schema == SEED_SCHEMA
    first, second = table.to_pylist()
    assert (first["image_id"], first["finding"]) == ("image 0", "Edema")
    front, back = (masks.decode(first[k], SIZE, SIZE) for k in ("foreground", "background"))
    assert front[:12, :12].all()
    assert not front[:, 14:].any()
    assert back[:, 20:].all()
    assert not back[:17, :17].any()
    # Nothing is known of Pneumothorax: its map is flat.
    assert (second["finding"], second["foreground"], second["background"]) == (
        "Pneumothorax", None, None,
    )  # fmt: skip


def test_maps_are_fitted_to_the_image():
    batch = images(corner(), 255 - corner(), content=[[0, 32, 0, 32], [4, 28, 0, 32]])
    content = torch.from_numpy(batch.content)
    boxed = labeller(EDEMA_ONLY, box=0.2).explain(batch).heat_BKhw
    region = torch.from_numpy(superpixels(batch.grey, batch.content, 20))
    made = labeller(EDEMA_ONLY, box=0.2, pool="superpixels", regions=20).explain(batch).heat_BKhw
    assert torch.equal(made, pooled(boxed, region))
    grey = torch.from_numpy(batch.grey)
    plain = upsample(labeller(EDEMA_ONLY).explain(batch).heat_BKhw, SIZE)
    made = labeller(EDEMA_ONLY, pool="edges").explain(batch).heat_BKhw
    wanted = edge_aware(plain, grey, content, GUIDE_REACH, GUIDE_SMOOTHNESS)
    assert torch.equal(made, wanted)
    row = by_finding(labeller(EDEMA_ONLY, pool="superpixels", regions=20)(batch)[0])["Edema"]
    mask = masks.decode(row["counts"], SIZE, SIZE).astype(bool)
    inside = region[0].numpy()
    # A superpixel is in the mask as a whole, or not at all.
    assert all(mask[inside == n].all() or not mask[inside == n].any() for n in np.unique(inside))


def test_a_band_around_a_mask_says_nothing():
    table, _ = labeller(EDEMA_ONLY, ignore=0.07)(images(corner()))
    rows = by_finding(table)
    mask, band = (
        masks.decode(rows["Edema"][name], SIZE, SIZE).astype(bool) for name in ("counts", IGNORED)
    )
    wanted = ignore_band(mask[None, None], 0.07, np.array([[0, SIZE, 0, SIZE]]))[0, 0]
    np.testing.assert_array_equal(band, wanted)
    assert band.any()
    assert rows["Pneumothorax"][IGNORED] is None
    assert IGNORED not in labeller(EDEMA_ONLY)(images(corner()))[0].column_names


def test_a_map_far_from_completeness_is_no_label():
    wish = {"method": "integrated-gradients", "integrated": {"steps": 1, "tolerance": None}}
    # A bias that lets the score bend: one step is not enough.
    model = classifier({"Edema": (2.0, 0.0)}, bias=-1.0)
    settings = {**wish, "explain": "probability"}
    batch = images(corner())
    known = by_finding(labeller(model, **settings)(batch)[0])["Edema"]
    error = known["completeness_error"]
    assert error > 0
    assert known["known"]
    for limit, kept in ((2 * error, True), (error / 2, False)):
        row = by_finding(labeller(model, completeness=limit, **settings)(batch)[0])["Edema"]
        assert (row["known"], row["counts"] is not None) == (kept, kept)
    assert row["status"] == "not finite"
