"""Training: resume equals never having stopped, a bad loss changes nothing, and the network learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from autoseg import losses
from autoseg.errors import BadPlan, RunFailed
from autoseg.image import IGNORE
from autoseg.losses.targets import sized
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train, amend
from autoseg.steps import train
from autoseg.steps.early import pseudo_dice
from autoseg.steps.learner import Learner, build
from autoseg.steps.weights import load_network, weights_of
from autoseg.steps.world import World

CPU = torch.device("cpu")
QUESTION = Question(reader="nifti", channels=(Channel(name="a", kind="other"),), labels={"background": 0, "a": 1})


def configuration(**changes: object) -> Configuration:
    network = Network.plain((4, 8), ((1, 1), (2, 2)))
    settings = Train(
        loss="dice+ce", augment=(), steps=20, optimiser=Part(name="adamw"), schedule=Part(name="poly"), foreground=0.3
    )
    made = Configuration(
        spacing=(1.0, 1.0), patch=(16, 16), batch=2, normalise=(Part(name="none"),), resample=Part(name="keep"),
        network=network, train=settings, memory=Memory(bytes=1, method=""),
    )  # fmt: skip
    return amend(made, changes)


class Squares:
    """Batches of bright squares on noise, drawn from the step alone."""

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(step)
        labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
        labels[0, 2:9, 3:11] = 1
        labels[1, 5:14, 1:8] = 1
        return labels[:, None].float() * 2 + torch.randn(2, 1, 16, 16, generator=rng) * 0.3, labels

    def stream(self, first: int, last: int, stages=None):
        return (self.batch(step) for step in range(first, last))


class Poisoned(Squares):
    """From step 3 on the images hold NaN."""

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = super().batch(step)
        return (images * math.nan if step >= 3 else images), labels


def learner(seed: int = 0, precision="float32", **changes: object) -> Learner:
    return build(configuration(**changes), QUESTION, seed, CPU, precision)


def run(one: Learner, last: int, batches=None) -> list[train.Progress]:
    return list(train.train(one, batches or Squares(), last, Squares(), every=5))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_follows_the_weights_and_is_what_predicts() -> None:
    one, plain = learner(**{"train.average": 0.6}), learner()
    mean = {name: value.detach().clone() for name, value in one.network.named_parameters()}
    for step, _ in enumerate(train.train(one, Squares(), 12)):
        kept = min(0.6, (1 + step) / (10 + step))
        mean = {name: kept * mean[name] + (1 - kept) * value for name, value in one.network.named_parameters()}
    predicting = weights_of(one.tensors())
    assert all(torch.allclose(predicting[name], value, atol=1e-6) for name, value in mean.items())
    run(plain, 12)
    assert weights_of(plain.tensors()).keys() == predicting.keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.network.parameters(), one.network.parameters(), strict=True))


def test_the_average_of_a_resumed_run_is_that_of_one_never_stopped() -> None:
    unbroken, first, second = (learner(**{"train.average": 0.9}) for _ in range(3))
    run(unbroken, 9)
    run(first, 4)
    second.load(first.tensors(), first.step, first.skipped, first.skipped_last, first.pieces)
    run(second, 9)
    assert same(unbroken.tensors(), second.tensors())


@pytest.mark.parametrize("stop", [1, 4, 5, 12, 19])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_stopped_and_resumed_equals_never_stopped(stop: int, optimiser: str, precision: str) -> None:
    part = {"train.optimiser.name": optimiser}
    unbroken = learner(precision=precision, **part)
    losses = [p.loss for p in run(unbroken, 20)]
    first = learner(precision=precision, **part)
    before = [p.loss for p in run(first, stop)]
    second = learner(seed=77, precision=precision, **part)
    second.load(first.tensors(), first.step, first.skipped, first.skipped_last, first.pieces)
    after = [p.loss for p in run(second, 20)]
    assert before + after == losses
    assert same(second.tensors(), unbroken.tensors())


def test_what_a_network_draws_is_drawn_again_after_a_stop() -> None:
    changes = {"network.dropout": 0.3}
    unbroken, first, second = (learner(**changes) for _ in range(3))
    losses = [p.loss for p in run(unbroken, 8)]
    before = [p.loss for p in run(first, 3)]
    torch.randn(5)  # whatever else is drawn in between
    second.load(first.tensors(), first.step, first.skipped, first.skipped_last, first.pieces)
    assert before + [p.loss for p in run(second, 8)] == losses
    assert same(second.tensors(), unbroken.tensors())
    plain = learner()
    assert [p.loss for p in run(plain, 8)] != losses


def test_the_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = learner(3).tensors()
    torch.manual_seed(2)
    assert same(one, learner(3).tensors())
    assert not same(one, learner(4).tensors())


def test_what_is_looked_at_in_between_leaves_the_weights_alone() -> None:
    watched, unwatched = learner(), learner()
    run(watched, 10)
    list(train.train(unwatched, Squares(), 10, None))
    assert same(watched.tensors(), unwatched.tensors())


def test_it_learns_squares() -> None:
    one = learner(**{"train.steps": 150, "train.optimiser.options": {"rate": 0.02}})
    progress = run(one, 150)
    assert progress[-1].loss < 0.25 * progress[0].loss
    assert progress[-1].dice is not None and progress[-1].dice[0] > 0.95
    assert [p.step for p in progress if p.dice is not None][:3] == [5, 10, 15]


REGIONS = Question(
    reader="nifti", channels=QUESTION.channels, labels={"background": 0, "a": 1, "b": 2},
    regions={"both": (1, 2), "b": (2,)}, written=(1, 2),
)  # fmt: skip


class Nested(Squares):
    """The squares with a brighter core, and an ignored column."""

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = super().batch(step)
        labels[:, 5:9, 4:8] *= 2
        images = images + 4 * (labels == 2)[:, None]
        labels[..., 0] = IGNORE
        return images, labels


class Fixed(torch.nn.Module):
    """Answers the same logits to everything."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.logits]


def test_the_pseudo_dice_of_regions_by_counting() -> None:
    logits = torch.randn(2, 2, 16, 16)
    one = learner()
    one.network, one.first, one.members = Fixed(logits), REGIONS.first, torch.tensor(REGIONS.members)
    labels = Nested().batch(0)[1]
    counted = labels != IGNORE
    for dice, region, values in zip(pseudo_dice(one, Nested()), (0, 1), ((1, 2), (2,)), strict=True):
        truth = sum(labels == value for value in values).bool() & counted
        guess = (logits[:, region].sigmoid() > 0.5) & counted
        assert dice == pytest.approx(2 * float((truth & guess).sum()) / float(truth.sum() + guess.sum()))


def test_it_learns_regions() -> None:
    changes = {"train.steps": 150, "train.loss": "dice+bce", "train.optimiser.options": {"rate": 0.02}}
    one = build(configuration(**changes), REGIONS, 0, CPU, "float32")
    assert one.members is not None and one.members.tolist() == [[0, 0], [1, 0], [1, 1]]
    progress = list(train.train(one, Nested(), 150, Nested(), every=150))
    assert progress[-1].dice is not None and min(progress[-1].dice) > 0.95


def test_the_rate_falls_to_zero_over_the_steps_exactly() -> None:
    rates = [p.rate for p in run(learner(), 20)]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-3 * (1 / 20) ** 0.9)


def test_a_loss_that_is_not_finite_changes_nothing_and_twenty_stop_the_run() -> None:
    one = learner(**{"train.steps": 100})
    taken = []
    with pytest.raises(RunFailed, match=r"not finite for 20 steps up to step 23.*checkpoint"):
        for progress in train.train(one, Poisoned(), 100):
            taken.append(progress)
            if progress.step == 3:
                good = one.tensors()
    assert same(one.tensors(), good)
    assert taken[-1].skipped == 19 and math.isnan(taken[-1].loss)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    with pytest.raises(RunFailed, match="another network"):
        load_network(learner().network, weights_of(learner(**{"network.features": [4, 16]}).tensors()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.loss": "dicee+ce"}, "unknown loss 'dicee'.*did you mean dice"),
        ({"train.optimiser.name": "adam"}, "unknown optimiser 'adam'"),
        ({"train.optimiser.options": {"rat": 1}}, "no option 'rat'.*did you mean rate"),
        ({"network.block.name": "swirl"}, "unknown block 'swirl'"),
        ({"train.schedule.name": "cosinus"}, "unknown schedule 'cosinus'"),
    ],
)
def test_unknown_parts_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadPlan, match=message):
        learner(**change)


class Cramped(torch.nn.Module):
    """A network for which memory runs out on more than `most` samples with a way back."""

    def __init__(self, network: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most, self.limits_all = network, most, False

    def forward(self, x: torch.Tensor):
        kept = self.training and torch.is_grad_enabled()
        if len(x) > self.most and (kept or (self.limits_all and not self.training)):
            raise torch.OutOfMemoryError("out of memory")
        return self.network(x)


def test_where_memory_runs_out_the_batch_goes_through_in_pieces_to_the_same_weights() -> None:
    roomy, cramped = (learner(**{"train.optimiser.name": "sgd"}) for _ in range(2))
    cramped.network = Cramped(cramped.network, 1)
    told = run(cramped, 6)
    assert [one.pieces for one in told] == [2] * 6
    assert [one.loss for one in told] == pytest.approx([one.loss for one in run(roomy, 6)], rel=1e-4)
    for a, b in zip(roomy.network.parameters(), cramped.network.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_run_in_pieces_looks_at_its_validation_in_pieces() -> None:
    one = learner()
    one.network = Cramped(one.network, 1)
    one.network.limits_all = True
    assert run(one, 5)[-1].dice is not None


def test_a_step_that_came_to_nothing_leaves_batch_norms_statistics() -> None:
    one = learner(**{"network.norm.name": "batch"})
    run(one, 3, Poisoned())
    before = [buffer.clone() for buffer in one.network.buffers()]
    assert before and run(one, 5, Poisoned())[-1].skipped == 2
    assert all(torch.equal(a, b) for a, b in zip(before, one.network.buffers(), strict=True))


@pytest.mark.parametrize("change", ["shape", "missing"])
def test_the_state_of_another_optimiser_is_refused(change: str) -> None:
    one = learner()
    run(one, 2)
    tensors = one.tensors()
    name = next(name for name in tensors if name.endswith("exp_avg"))
    if change == "shape":
        tensors[name] = torch.ones(1, 3)
    else:
        del tensors[name]
    with pytest.raises(ValueError, match=r"belong together|has shape"):
        learner().load(tensors, 2, 0, 0, 1)


def test_a_run_in_pieces_stopped_and_resumed_equals_never_stopped() -> None:
    unbroken, first, second = learner(), learner(), learner()
    for one in (unbroken, first):
        one.pieces = 2
    run(unbroken, 8)
    run(first, 3)
    second.load(first.tensors(), first.step, first.skipped, first.skipped_last, first.pieces)
    run(second, 8)
    assert same(unbroken.tensors(), second.tensors())


def test_no_memory_for_a_single_sample_ends_the_run_and_changes_nothing() -> None:
    one = learner()
    before = one.tensors()
    one.network = Cramped(one.network, 0)
    with pytest.raises(RunFailed, match=r"single sample.*--memory"):
        run(one, 1)
    one.network = one.network.network
    assert same(before, one.tensors()) and one.step == 0


def tight(fails: int) -> Learner:
    """Lacks the memory for the labels of other processes so many times."""

    class Tight(World):
        def whole(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            nonlocal fails
            fails -= 1
            if fails >= 0:
                raise torch.OutOfMemoryError("out of memory")
            return super().whole(tensors)

    one = learner(**{"train.optimiser.name": "sgd"})
    one.world = Tight()
    return one


def test_memory_that_runs_out_over_the_labels_leads_to_pieces_or_the_end() -> None:
    roomy, one = tight(0), tight(1)
    told = run(one, 1)
    assert told[0].pieces == 2 and told[0].loss == pytest.approx(run(roomy, 1)[0].loss, rel=1e-4)
    with pytest.raises(RunFailed, match=r"single sample.*--memory"):
        run(tight(9), 1)


def test_the_log_line_names_the_classes() -> None:
    line = train.as_log(train.Progress(5, float("nan"), 0.1, 0.2, 1, (0.5, None)), ("a", "b"))
    assert line["loss"] is None and line["pseudo_dice"] == {"a": 0.5, "b": None}


def test_a_step_tells_its_gradients_norm_and_the_loss_of_every_head() -> None:
    one, other = learner(), learner()
    images, labels = Squares().batch(0)
    (told,) = run(one, 1)
    outputs = other.network.train()(images)
    found = [other.loss_of(head, sized(labels, head.shape[2:])) for head in outputs]
    losses.over_depths(other.loss_of, outputs, labels, other.head_weights).backward()
    norm = torch.stack([p.grad.norm() for p in other.network.parameters() if p.grad is not None]).norm()
    assert told.norm == pytest.approx(float(norm), rel=1e-5) and told.memory > 10**7
    assert told.heads == pytest.approx({head: float(found[head].detach()) for head in told.heads}) and 0 in told.heads
    line = train.as_log(told, ("a",))
    assert line["norm"] == pytest.approx(told.norm, rel=1e-3) and line["memory"] == told.memory
    assert [*line["stages"]] == [*told.stages] and sum(told.stages.values()) <= told.seconds
