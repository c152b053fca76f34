"""Records as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from autoseg.cli.session import table

if TYPE_CHECKING:
    from autoseg.records import Choice as Chosen
    from autoseg.records import Cleaning, Compared, Fingerprint, Means, Network, Plan, Scores
    from autoseg.steps.explain import Choice, Explanation

WORST = 3


def faults(task: str, fingerprint: Fingerprint) -> None:
    """Every fault of every case, fatal ones first, and a line that counts them."""
    found = fingerprint.all_faults
    if found:
        rows = [(f.case, f.fault, f.detail, "cannot be used" if f.fatal else "remark") for f in found]
        table(f"{task}: faults", ["case", "fault", "detail", ""], rows)
    bad = len({fault.case for fault in found if fault.fatal})
    remarks = sum(not fault.fatal for fault in found)
    click.echo(f"{len(fingerprint.cases)} cases: {bad} cannot be used, {remarks} remarks")


def plan(plan: Plan, file: Path, folds: int) -> None:
    """A column per configuration, then the reasons, and what to do next."""
    titles = list(plan.configurations)
    columns = [_described(plan, title) for title in titles]
    rows = [(field, *(column[field] for column in columns)) for field in columns[0]]
    table(f"{plan.task}: plan {plan.name}", ["", *titles], rows)
    table("why", ["decision", "reason"], list(plan.because.items()))
    first = "3d" if "3d" in titles else titles[0]
    click.echo(f"{file} · train with: autoseg train {first} {0 if folds > 1 else 'all'}")


def explained(found: Sequence[Explanation]) -> None:
    """Every field with its value, reason and choices."""
    for one in found:
        click.echo(f"{one.field}: {one.value}" if one.value else one.field)
        click.echo(f"  {one.reason}")
        if one.choices:
            rows = [_chosen(choice) for choice in one.choices]
            table("", ["choice", "memory (estimate)", "seconds per step", "hours per fold", ""], rows)


def _chosen(choice: Choice) -> tuple[str, ...]:
    memory = "–" if choice.memory is None else f"{choice.memory / 1e9:.2f} GB"
    seconds = "–" if choice.seconds is None else f"{choice.seconds:.3f}"
    return choice.value, memory, seconds, "–" if choice.hours is None else f"{choice.hours:.2f}", choice.problem


def _described(plan: Plan, title: str) -> dict[str, str]:
    one = plan.configurations[title]
    return {
        "spacing": " × ".join(f"{s:g}" for s in one.spacing),
        "patch": " × ".join(map(str, one.patch)),
        "batch": str(one.batch),
        "normalise": ", ".join(dict.fromkeys(part.name for part in one.normalise)),
        "resample": one.resample.name,
        "network": f"{one.network.architecture.text}, {len(one.network.features)} stages",
        "blocks": _blocks(one.network),
        "inserts": "  ".join(insert.text for insert in one.network.inserts) or "–",
        "features": " ".join(map(str, one.network.features)),
        "strides": " ".join("×".join(map(str, s)) for s in one.network.strides),
        "kernels": " ".join("×".join(map(str, k)) for k in one.network.kernels),
        "loss": one.train.loss,
        "optimiser": one.train.optimiser.name,
        "memory (estimate)": f"{one.memory.bytes / 1e9:.2f} GB",
        "steps": f"{one.train.steps:,}",
        "hours": _hours(plan, title),
    }


def _blocks(network: Network) -> str:
    """residual 1 3 4 6, decoder plain(convs=1) 1 1 1."""
    encoder = f"{network.block.text} {' '.join(map(str, network.depths))}"
    return f"{encoder}; decoder {network.decoder_block.text} {' '.join(map(str, network.decoder_depths))}"


def _hours(plan: Plan, title: str) -> str:
    from autoseg.steps.plan import hours

    found = hours(plan, title)
    return "not measured on this machine" if found is None else f"{found:.2f} per fold"


def scores(title: str, scores: Scores, folder: Path) -> None:
    """Means per class with their intervals, the worst cases, the rule and where the files are."""
    from autoseg.arrays.metrics import mean_of

    further = list(scores.measures)
    rows = [(name, *_cells(means, further)) for name, means in scores.mean.items()]
    if len(rows) > 1:
        parts = [mean_of(getattr(one, name) for one in scores.mean.values()) for name in ("iou", "precision", "recall")]
        parts += [mean_of(one.more.get(name) for one in scores.mean.values()) for name in further]
        rows.append(("mean", interval(scores.dice, scores.interval), *map(number, parts), ""))
    columns = ["class", "Dice [95 %]", "IoU", "precision", "recall", *further, "cases"]
    table(f"{title}: {len(scores.cases)} cases", columns, rows)
    for name, said in scores.measures.items():
        click.echo(f"{name}: {said}")
    if scores.pooled:
        header, pooled = scores.together
        table("all cases as one image", [*header], [_plain(row) for row in pooled])
    known = {
        case: sum(values) / len(values)
        for case, classes in scores.cases.items()
        if (values := [row.dice for row in classes.values() if row.dice is not None])
    }
    if len(known) > WORST:
        worst = sorted(known, key=lambda case: known[case])[:WORST]
        click.echo("worst: " + ", ".join(f"{case} {known[case]:.3f}" for case in worst))
    click.echo(f"rule: {scores.rule}")
    click.echo(f"{folder}")


def _cells(means: Means, further: Sequence[str]) -> tuple[str, ...]:
    rest = (number(value) for value in (means.iou, means.precision, means.recall))
    more = (number(means.more.get(name)) for name in further)
    return (interval(means.dice, means.intervals.get("dice")), *rest, *more, str(means.cases))


def interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return number(value) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def number(value: float | None) -> str:
    """Four digits behind the point."""
    return "–" if value is None else f"{value:.4f}"


def choice(choice: Chosen, file: Path) -> None:
    """The comparison, the model that is taken and why, what postprocessing brings, and what the figures mean."""
    from autoseg.steps.evaluate import RULE

    rows = [_row(one, one.configurations == choice.configurations) for one in choice.table]
    title = f"{choice.task}, plan {choice.plan}: {choice.cases} cases held out, of {choice.groups} groups"
    columns = ["", "model", "Dice [95 %]", "behind the best [95 %]", "seconds per case", "parameters", "training, GB"]
    table(title, columns, rows)
    click.echo(f"taken: {' + '.join(choice.configurations)}: {choice.because}")
    if choice.nested is not None and len(choice.table) > 1:
        click.echo(f"chosen fold by fold on the other folds, such a model has Dice {choice.nested:.4f}")
    _cleaning(choice.cleaning)
    click.echo(f"rule: {RULE}")
    click.echo(
        "these figures are of the networks of single folds, each on cases that it had not seen; the mean of all folds "
        "is what predicts, and is unmeasured unless evaluate is given a test set; seconds and parameters are of one "
        "fold's, memory is that of training"
    )
    click.echo(f"{file} · predict with it: autoseg predict -i IN -o OUT")


def _row(one: Compared, taken: bool) -> tuple[str, ...]:
    behind = "" if one.behind == 0 else interval(one.behind, one.apart)
    return (
        "→" if taken else "", one.name, interval(one.dice, one.interval), behind, f"{one.seconds:.2f}",
        f"{one.parameters:,}", f"{one.memory / 1e9:.2f}",
    )  # fmt: skip


def _cleaning(cleaning: Cleaning) -> None:
    if not cleaning.tried.texts:
        click.echo("postprocessing: none" + (", as nothing raises the Dice" if cleaning.before else ""))
        return
    click.echo(f"postprocessing: {cleaning.said}")
    header, rows = cleaning.gains
    table("", [*header], [_plain(row) for row in rows])


def _plain(row: Sequence[str | float | None]) -> tuple[str, ...]:
    """Numbers with four digits behind the point."""
    return tuple(one if isinstance(one, str) else number(one) for one in row)
