"""evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from autoseg.cli import show
from autoseg.cli.session import Session, current, echo_json, json_option, measure_option, measures_asked, workers_option
from autoseg.errors import BadData

if TYPE_CHECKING:
    from autoseg.pipeline.scoring import Asked


@click.command()
@click.option("-p", "--predictions", type=click.Path(path_type=Path), required=True, help="Folder of predicted labels.")
@click.option("-r", "--references", type=click.Path(path_type=Path), required=True, help="Folder of true labels.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="Folder for the scores.")
@click.option("-t", "--task", help="Task whose classes and groups to take (default: the values in the references).")
@click.option("-i", "--images", type=click.Path(exists=True, path_type=Path), help="Folder of the images, for the "
              "pictures of the report (default: those of the task's own cases).")  # fmt: skip
@measure_option
@click.option(
    "--erode", type=click.IntRange(0, 20), default=0, help="Pixels around borders of classes that do not count."
)
@click.option(
    "--mask", "masks", type=click.Path(path_type=Path), help="Folder of masks: where they are 0 nothing counts."
)
@click.option("--group", metavar="REGEX", help="Cases with the same match are one patient or scene, for the intervals; "
              "with --task, of those that the task does not know.")  # fmt: skip
@workers_option
@json_option
@click.pass_context
def evaluate(
    context: click.RichContext, /, predictions: Path, references: Path, out: Path, task: str | None, as_json: bool,
    workers: int | None, images: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Score a folder of predictions against a folder of references: scores.json, scores.csv and a table."""
    from autoseg.pipeline.reporting import report_of_scores
    from autoseg.pipeline.scoring import evaluate_folders

    session = current(context)
    asked = _asked(session, task, **options)
    found = evaluate_folders(predictions, references, out, session.voice, asked, workers)
    title, scores = f"{predictions} against {references}", found.scores
    report_of_scores(found, title, out / "report.html", images, session.voice)
    if as_json:
        echo_json(scores.model_dump(mode="json"))
    else:
        show.scores(title, scores, out)
    if scores.faults:
        some = " | ".join(f"{case}: {why}" for case, why in [*scores.faults.items()][:5])
        more = f" (and {len(scores.faults) - 5} more in {out / 'scores.json'})" if len(scores.faults) > 5 else ""
        raise BadData(f"{len(scores.faults)} cases were not scored: {some}{more}", where=str(predictions))


def _asked(session: Session, task: str | None, measures: tuple[str, ...], group: str | None, **rest: Any) -> Asked:
    from autoseg.pipeline.scoring import Asked
    from autoseg.pipeline.tasks import dataset_of

    names = measures_asked(measures)
    if task is None:
        return Asked(measures=names, group=group, **rest)
    name = session.home.task(task)
    dataset, _ = dataset_of(session.home, name)
    groups = {case.id: case.group for case in dataset.cases if case.group is not None}
    sites = {case.id: case.site for case in dataset.cases if case.site is not None}
    folder = session.home.task_folder(name)
    images = {
        (folder / case.label).resolve(): tuple(folder / file for file in case.images)
        for case in dataset.cases if case.label is not None
    }  # fmt: skip
    return Asked(dataset.question(), names, groups=groups, group=group, sites=sites, images=images, **rest)
