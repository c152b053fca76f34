"""Which postprocessing helps: chosen by predictions of cases that were held out, and judged on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.cleaning import Act, Labels
from autoseg.parts import POSTPROCESSORS
from autoseg.records import Cleaning, Part, Postprocessing
from autoseg.steps.odds import PLAIN, SHARES
from autoseg.steps.tallies import Counts, Facts, Objects, Odds, Shares, dice

ROUNDS = 4  # in which the steps of classes that fall are left out
LEAST = 1e-9  # by which a mean Dice rises that is better
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.97)  # of the volumes of objects that are not a case's largest: sizes to be tried
Done = Callable[[Sequence[tuple[str, Postprocessing]]], Sequence[Shares]]


@dataclass(frozen=True)
class Thresholds:
    """What is taken, by class: on all cases, and for each fold as the other folds choose.

    `before` and `nested` are the mean Dice (K,) without them, and with them on cases they were not chosen on.
    """

    taken: Mapping[str, float]
    by_fold: Mapping[int, Mapping[str, float]]
    before: Shares
    nested: Shares


def acts(parts: Sequence[Part], classes: Mapping[str, int]) -> list[Act]:
    """What the parts do, built. Raises: BadPlan."""
    return [POSTPROCESSORS.build(part, where="postprocessing", classes=dict(classes)) for part in parts]


def applied(labels: Labels, steps: Iterable[Act], spacing: Sequence[float]) -> Labels:
    """The labels (*S) after one step after the other."""
    for act in steps:
        labels = act(labels, spacing)
    return labels


# -- what a step does ----------------------------------------------------------------------------------


def changed(case: Facts, part: Part, names: Sequence[str]) -> tuple[Counts, Counts]:
    """(hits, predicted) per class of a case after a step of ours alone."""
    label = part.options.get("label")
    which = None if label is None else names.index(str(label))
    hits, predicted = case.hits.copy(), case.predicted.copy()
    if part.name == "fill_holes":
        assert which is not None
        predicted[which] += case.inside[which, 0]
        hits[which] += case.inside[which, 1]
        return hits, predicted
    objects = case.together if which is None else case.own[which]
    if part.name == "keep_largest":
        gone = np.arange(len(objects.volumes)) != (objects.volumes.argmax() if len(objects.volumes) else 0)
    else:
        gone = objects.volumes < float(part.options["size"])  # type: ignore[arg-type]
    touched = slice(None) if which is None else slice(which, which + 1)
    hits[touched] -= objects.hits[gone].sum(0)
    predicted[touched] -= objects.voxels[gone].sum(0)
    return hits, predicted


def candidates(cases: Sequence[Facts], names: Sequence[str]) -> Iterator[list[Part]]:
    """Steps of which one is taken at most, group after group: for all classes as one, then each, then holes."""
    if len(names) > 1:
        yield _for([case.together for case in cases], {})
    for number, name in enumerate(names):
        yield _for([case.own[number] for case in cases], {"label": name})
    for name in names:
        yield [Part(name="fill_holes", options={"label": name})]


def _for(objects: Sequence[Objects], options: dict[str, Any]) -> list[Part]:
    others = [np.delete(one.volumes, one.volumes.argmax()) for one in objects if len(one.volumes) > 1]
    found = [Part(name="keep_largest", options=options)]
    if others:
        sizes = np.quantile(np.concatenate(others), QUANTILES)
        wanted = dict.fromkeys(float(f"{size * 1.0001:.3g}") for size in sizes if size > 0)
        found += [Part(name="remove_small", options={"size": size, **options}) for size in wanted]
    return found


def select(cases: Sequence[Facts], names: Sequence[str]) -> tuple[Part, ...]:
    """The steps that raise the mean Dice over these cases while the Dice of no class falls.

    Of all classes as one a step is taken first; what it leaves is not looked at again, so that of a class's own steps
    only those count that raise its Dice further than it did.
    """
    taken: list[Part] = []
    base = _means(np.array([dice(case.hits, case.predicted, case.there) for case in cases]))
    best = base.copy()
    for group in candidates(cases, names):
        found, gain = None, LEAST
        for part in group:
            after = _means(
                np.array([dice(*changed(case, part, names), case.there) for case in cases])
            )  # fmt: skip
            touched = [names.index(str(part.options["label"]))] if "label" in part.options else range(len(names))
            rises = [after[k] - (base if part.name == "fill_holes" else best)[k] for k in touched]
            if min(rises) >= 0 and sum(rises) > gain:
                found, gain, better = part, sum(rises), after
        if found is not None:
            taken.append(found)
            which = [names.index(str(found.options["label"]))] if "label" in found.options else list(range(len(names)))
            if found.name != "fill_holes":
                best[which] = better[which]
    return tuple(taken)


def _means(scores: Shares) -> Shares:
    """Per class over the cases that count, which are in front; -1 where none does."""
    known = np.isfinite(scores)
    counts = known.sum(0)
    sums = np.where(known, scores, 0.0).sum(0)
    means: Shares = np.divide(sums, counts, out=np.full(scores.shape[1:], -1.0), where=counts > 0)
    return means


def thresholds(cases: Sequence[Odds], names: Sequence[str]) -> Thresholds:
    """The threshold of each class that raises its mean Dice, there and on cases that it was not chosen on."""
    scores, folds = np.array([case.dice for case in cases]), np.array([case.fold for case in cases])
    means = _means(scores)
    before = means[:, PLAIN]
    if len({*folds.tolist()}) < 2:
        return Thresholds({}, {}, before, before)
    fitted = _highest(means)
    by_fold = {fold: _highest(_means(scores[folds != fold])) for fold in sorted({*folds.tolist()})}
    each = np.array([by_fold[fold] for fold in folds.tolist()])  # (N, K)
    nested = _means(np.take_along_axis(scores, each[:, :, None], 2)[:, :, 0])
    helps = (means[np.arange(len(fitted)), fitted] > before + LEAST) & (nested > before + LEAST)

    def named(chosen: Counts) -> dict[str, float]:
        return {
            name: SHARES[share] for name, share, takes in zip(names, chosen.tolist(), helps, strict=True)
            if takes and share != PLAIN
        }  # fmt: skip

    return Thresholds(
        named(fitted), {fold: named(one) for fold, one in by_fold.items()}, before, np.where(helps, nested, before)
    )  # fmt: skip


def _highest(means: Shares) -> Counts:
    """(K,) of (K, T): which share has the highest Dice, the nearest to 0.5 of those that are alike."""
    order = sorted(range(len(SHARES)), key=lambda n: abs(n - PLAIN))
    best = means[:, order].max(1, keepdims=True)
    found: Counts = np.array(order)[(means[:, order] >= best - LEAST).argmax(1)]
    return found


# -- the choice ----------------------------------------------------------------------------------------


def choose(cases: Mapping[str, Facts], names: Sequence[str], after: Done, first: Thresholds | None = None) -> Cleaning:
    """The steps that help, judged on cases that they were not chosen on.

    Args:
        cases: what is known of every case, by name, after the thresholds; names: of the K classes.
        after: the Dice per class, (K,), NaN where it does not count, of cases when all is really done: what several
            steps do together is not foreseen.
        first: the thresholds, where some were looked for.
    """
    found = list(cases.values())
    fitted = _means(np.array([dice(case.hits, case.predicted, case.there) for case in found]))
    first = first or Thresholds({}, {}, fitted, fitted)
    taken = Postprocessing(thresholds=dict(first.taken))
    tried = select(found, names) if len({case.fold for case in found}) > 1 else ()  # else nothing judges them
    known = Cleaning(taken=taken, tried=taken, before=_named(first.before, names))
    if first.taken:
        alone = _named(first.nested, names)
        known = known.model_copy(update={"thresholded": alone, "after": _named(fitted, names), "nested": alone})
    if not tried:
        return known
    known = known.model_copy(update={"tried": taken.model_copy(update={"steps": tried})})
    folds = {case.fold for case in found}
    chosen = {fold: select([case for case in found if case.fold != fold], names) for fold in folds}
    left: set[object] = set()  # classes whose steps are given up; None: those of all as one
    for _ in range(ROUNDS):
        whole = taken.model_copy(update={"steps": _without(tried, left)})
        if not whole.steps:
            return known
        # neither have seen a fold's own cases; but its steps are chosen on labels whose thresholds have
        for_fold = {
            fold: Postprocessing(thresholds=dict(first.by_fold.get(fold, {})), steps=_without(steps, left))
            for fold, steps in chosen.items()
        }
        wanted = [(name, whole) for name in cases]
        wanted += [(name, for_fold[case.fold]) for name, case in cases.items() if for_fold[case.fold] != whole]
        done = {(name, what == whole): scores for (name, what), scores in zip(wanted, after(wanted), strict=True)}
        after_all = _means(np.array([done[name, True] for name in cases]))
        nested = _means(np.array([done[name, for_fold[case.fold] == whole] for name, case in cases.items()]))
        if not left:
            told = {"after": _named(after_all, names), "nested": _named(nested, names)}
            known = known.model_copy(update=told)
        pairs = ((after_all, fitted), (nested, first.nested))
        fell = {name for one, than in pairs for name, lower in zip(names, one < than, strict=True) if lower}
        own = {part.options.get("label") for one in (whole, *for_fold.values()) for part in one.steps}
        gains = zip(names, nested - first.nested, strict=True)
        idle = {name for name, gain in gains if name in own and gain <= LEAST} - fell
        if not fell and not idle:
            helps = all(one.sum() > than.sum() + LEAST for one, than in pairs)
            more = {"after": _named(after_all, names), "nested": _named(nested, names), "taken": whole}
            return known.model_copy(update=more) if helps else known
        before = len(left)
        # what is done to all classes as one may be what harms a class
        left |= idle if not fell else {None} if None in own else fell
        if len(left) == before:
            return known
    return known


def _without(steps: Sequence[Part], left: set[object]) -> tuple[Part, ...]:
    """The steps of other classes than those."""
    return tuple(part for part in steps if part.options.get("label") not in left)


def _named(means: NDArray[np.float64], names: Sequence[str]) -> dict[str, float | None]:
    return {name: None if mean < 0 else float(mean) for name, mean in zip(names, means, strict=True)}
