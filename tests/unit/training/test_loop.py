"""The loop: answers by hand for one weight, order of steps, resumption."""

import math

import pytest
import torch
from chexseg_platform.training.loop import (
    TrainingDiverged,
    learning_rate,
    make_optimizer,
    one_group,
    optimizer_tensors,
    prefetch,
    restore_optimizer,
    seeded,
    step_seed,
    train,
)
from torch import nn


class Weight(nn.Module):
    """y = w x, w = 1 at first."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.w * x


def run(model, optimizer, batch_at=lambda step: {"x": torch.ones(2)}, **settings):
    chosen = {"total": 4, "report_every": 2, "rate_at": lambda _: 0.1, "seed_at": lambda s: s}
    return train(
        model, optimizer, batch_at, lambda m, b: m(b["x"]).mean(), **{**chosen, **settings}
    )


def test_plain_descent_by_hand():
    model = Weight()
    reports = list(run(model, torch.optim.SGD(model.parameters(), lr=9.0)))
    # The loss is w; each step takes 0.1 from it: 1, 0.9 | 0.8, 0.7.
    assert [(r.step, r.total) for r in reports] == [(2, 4), (4, 4)]
    assert [round(r.loss, 6) for r in reports] == [0.95, 0.75]
    assert model.w.item() == pytest.approx(0.6)
    assert all(r.images_per_second > 0 for r in reports)


@pytest.mark.parametrize(
    ("start", "total", "every", "steps"),
    [(0, 5, 2, [2, 4, 5]), (3, 5, 2, [4, 5]), (0, 3, 10, [3]), (4, 4, 2, []), (0, 2, 1, [1, 2])],
)  # fmt: skip
def test_reports_come_at_multiples_and_at_the_end(start, total, every, steps):
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reports = run(model, optimizer, start=start, total=total, report_every=every)
    assert [report.step for report in reports] == steps


def test_every_step_has_its_batch_and_rate_and_the_training_mode():
    model, seen = Weight(), []

    def loss_of(m, batch):
        seen.append((int(batch["x"][0]), optimizer.param_groups[0]["lr"], m.training))
        return m(batch["x"]).mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in train(
        model, optimizer, lambda step: {"x": torch.full((2,), float(step))}, loss_of,
        start=2, total=5, report_every=1, rate_at=lambda step: step / 8, seed_at=lambda s: s,
    ):  # fmt: skip
        model.eval()
    assert seen == [(2, 0.25, True), (3, 0.375, True), (4, 0.5, True)]


def test_groups_learn_at_their_share_of_the_rate():
    model = nn.ModuleList([Weight(), Weight()])
    groups = [
        {"params": list(one.parameters()), "factor": factor}
        for one, factor in zip(model, (1.0, 0.25), strict=True)
    ]
    steps = train(
        model, torch.optim.SGD(groups, lr=9.0), lambda _: {"x": torch.ones(2)},
        lambda m, b: m[0](b["x"]).mean() + m[1](b["x"]).mean(),
        total=2, report_every=2, rate_at=lambda step: 0.1 * (step + 1), seed_at=lambda s: s,
    )  # fmt: skip
    list(steps)
    # Each gradient is 1: the first goes down by 0.1 + 0.2, the second by a quarter of that.
    assert [one.w.item() for one in model] == pytest.approx([0.7, 0.925])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_advice(bad):
    model = Weight()
    batches = {0: 1.0, 1: bad}

    def batch_at(step):
        return {"x": torch.full((2,), batches.get(step, 1.0))}

    steps = run(model, torch.optim.SGD(model.parameters(), lr=0.1), batch_at, report_every=1)
    next(steps)
    with pytest.raises(TrainingDiverged, match=r"after step 2; try a lower lr"):
        next(steps)


def test_cosine_schedule_by_hand():
    rates = [learning_rate("cosine", 2.0, step, 4) for step in range(5)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([2.0, 1 + half, 1.0, 1 - half, 0.0])
    assert [learning_rate("constant", 2.0, step, 4) for step in (0, 3)] == [2.0, 2.0]
    assert learning_rate("cosine", 1.0, 0, 1) == 1.0


def test_bfloat16_is_used_where_asked():
    model, dtypes = nn.Linear(4, 1), []

    def loss_of(m, batch):
        out = m(batch["x"])
        dtypes.append(out.dtype)
        return out.float().square().mean()

    for autocast in (None, torch.bfloat16):
        optimizer = make_optimizer("adamw", one_group(model), 0.01, 0.0)
        (report,) = train(
            model, optimizer, lambda _: {"x": torch.ones(2, 4)}, loss_of,
            total=3, report_every=3, rate_at=lambda _: 0.01, seed_at=lambda s: s, autocast=autocast,
        )  # fmt: skip
        assert math.isfinite(report.loss)
    assert dtypes == [torch.float32] * 3 + [torch.bfloat16] * 3
    assert model.weight.dtype == torch.float32


def test_optimizers_are_the_papers():
    adam = make_optimizer("adam", one_group(Weight()), 1e-3, 0.0)
    adamw = make_optimizer("adamw", one_group(Weight()), 1e-3, 0.1)
    assert (type(adam), type(adamw)) == (torch.optim.Adam, torch.optim.AdamW)
    for optimizer in (adam, adamw):
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert adamw.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_an_optimizer_goes_on_as_if_never_stopped(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    inputs = torch.randn(6, 8, 3)

    def steps(optimizer, numbers):
        for number in numbers:
            optimizer.zero_grad()
            model(inputs[number]).square().mean().backward()
            optimizer.step()

    optimizer = make_optimizer(name, one_group(model), 0.01, 0.1)
    steps(optimizer, range(3))
    kept = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}
    assert (kept["0.step"].item(), kept["0.exp_avg"].shape) == (3, (4, 3))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    steps(optimizer, range(3, 6))
    wanted = {k: v.clone() for k, v in model.state_dict().items()}

    model.load_state_dict(weights)
    fresh = make_optimizer(name, one_group(model), 0.01, 0.1)
    restore_optimizer(fresh, kept)
    steps(fresh, range(3, 6))
    for key, value in model.state_dict().items():
        assert torch.equal(value, wanted[key]), key


def test_prefetch_keeps_order_and_hands_errors_over_in_their_place():
    assert list(prefetch(lambda n: n * n, 2, 5)) == [(2, 4), (3, 9), (4, 16)]
    assert list(prefetch(lambda n: n, 3, 3)) == []

    def make(number):
        if number == 2:
            raise OSError("disk gone")
        return number

    items = prefetch(make, 0, 5)
    assert [next(items), next(items)] == [(0, 0), (1, 1)]
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_prefetch_makes_one_ahead_and_stops_when_left():
    made = []
    items = prefetch(lambda n: made.append(n), 0, 1000)
    next(items)
    items.close()
    assert made[:1] == [0]
    assert len(made) <= 4


def test_seeds_of_steps_are_known_and_leave_the_process_alone():
    assert step_seed(0, 0, 0) != step_seed(0, 0, 1) != step_seed(0, 1, 0)
    assert 0 <= step_seed(2**32 - 1, 10**9, 7) < 2**63
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    inside = []
    for _ in range(2):
        with seeded(torch.device("cpu"), 9):
            inside.append(torch.rand(3))
    assert torch.equal(inside[0], inside[1])
    assert torch.equal(torch.rand(3), wanted)
