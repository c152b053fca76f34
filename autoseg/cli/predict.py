"""predict: labels for files and folders, with the current task's runs or a model's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from autoseg.cli.session import Session, current, device_option, gigabytes, plan_option, task_option
from autoseg.errors import BadUsage

if TYPE_CHECKING:
    from autoseg.pipeline.inputs import Job
    from autoseg.pipeline.opening import Way
    from autoseg.pipeline.orders import Order
    from autoseg.pipeline.prediction import Model
    from autoseg.records import Question

FAST_STEP = 0.75


@click.command()
@click.option("-i", "--input", "source", type=click.Path(path_type=Path), help="File, series or folder.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Folder for the labels.")
@click.option("-m", "--model", "file", type=click.Path(path_type=Path), help="Predict with this exported model.")
@click.option(
    "--config", help="Configuration, or several with commas, averaged (default: the best by validation Dice)."
)
@click.option("--folds", help="Folds to average: 0,1,2 (default: all that are trained).")
@click.option("--step", type=click.FloatRange(0, 1, min_open=True), help="Distance of tiles in patches (0.5).")
@click.option("--no-mirror", is_flag=True, help="Do not average over mirrored images: faster, a little worse.")
@click.option("--scales", help="Average over the image at several sizes: 0.75,1,1.25.")
@click.option("--fast", is_flag=True, help=f"No mirroring, a step of {FAST_STEP}, a UNet++ without its deepest head.")
@click.option("--depth", type=click.IntRange(1), help="UNet++ only: the head of this depth alone, 1 the fastest.")
@click.option("--engine", type=click.Choice(["auto", "torch", "openvino"]), default="auto",
              help="What computes on a CPU (auto: OpenVINO where it is installed).")  # fmt: skip
@click.option("--precision", type=click.Choice(["auto", "bf16", "float32"]), help="In what it computes (the plan's).")
@click.option("--no-postprocessing", is_flag=True, help="Leave out what was chosen to be done to the labels.")
@click.option("--ram", help="Memory to take beside an image and its label, e.g. 8GB (four fifths of what is free).")
@click.option("--probabilities", is_flag=True, help="Write every class's probability too (.b2nd).")
@click.option("--uncertainty", is_flag=True, help="Write entropy and disagreement of the networks too.")
@click.option("--volumes", is_flag=True, help="Write volumes or areas per class too (volumes.csv).")
@click.option("--previews", is_flag=True, help="Draw every case with its label too (PNG).")
@click.option("--polygons", is_flag=True, help="Write outlines of a raster's classes too (GeoJSON).")
@click.option("--dicom-seg", is_flag=True, help="Write DICOM-SEG of DICOM series too.")
@click.option("--shard", default="1/1", help="Part k of n of the inputs: 3/16, for several machines.")
@click.option("--price", is_flag=True, help="Predict nothing: measure what step, mirrors and scales cost and bring.")
@task_option
@plan_option
@device_option
@click.pass_context
def predict(context: click.RichContext, /, source: Path | None, out: Path | None, price: bool, **asked: Any) -> None:
    """Predict a file or all images of a folder; what was predicted before, of the same content, is kept."""
    session = current(context)
    if price:
        _price(session, asked)
        return
    if source is None or out is None:
        raise click.UsageError("Missing option '-i' / '--input' or '-o' / '--output'.")
    from autoseg.interop.dicom_seg import require_highdicom
    from autoseg.pipeline.folder import predict_folder
    from autoseg.pipeline.inputs import inputs
    from autoseg.pipeline.opening import on_engine
    from autoseg.pipeline.orders import told

    order, way = _order(source, out, asked), _way(asked)
    models = _models(session, asked, way)
    raster = models[0].question.reader == "raster"
    if asked["polygons"] and not raster:
        raise BadUsage("are drawn of rasters alone", where="--polygons")
    if asked["dicom_seg"] and raster:
        raise BadUsage("is written of DICOM series alone", where="--dicom-seg")
    jobs = inputs(source, models[0].question).jobs
    if asked["dicom_seg"]:
        require_highdicom()
        if not any(job.reader == "dicom" for job in jobs):
            raise BadUsage("is written of DICOM series, of which there is none", where="--dicom-seg")
    models = on_engine(models, way, len(jobs), session.voice)
    told(predict_folder(models, order, session.voice), order, session.voice)


def _order(source: Path, out: Path, asked: dict[str, Any]) -> Order:
    from autoseg.pipeline.extras import ExtraWish
    from autoseg.pipeline.orders import Order

    wish = ExtraWish(**{name: asked[name] for name in ("probabilities", "uncertainty", "volumes", "previews")})
    number, slash, of = asked["shard"].partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise BadUsage(f"{asked['shard']!r} is no part", where="--shard", expected="k/n, for example 3/16")
    ram = gigabytes(asked["ram"], "--ram") if asked["ram"] else None
    after = [act for act, wanted in ((outlined, asked["polygons"]), (as_dicom_seg, asked["dicom_seg"])) if wanted]
    return Order(source, out, ram, (int(number), int(of)), wish, tuple(after))


def outlined(label: Path, job: Job, question: Question) -> Path:
    """The outlines of every class of a raster's label, beside it."""
    from autoseg.readers.polygons import write_polygons
    from autoseg.store import whole

    target = label.with_suffix(".geojson")
    with whole(target) as temporary:
        write_polygons(label, temporary, {value: name for name, value in question.labels.items()})
    return target


def as_dicom_seg(label: Path, job: Job, question: Question) -> Path | None:
    """The label of a DICOM series as DICOM-SEG, beside the one in NIfTI."""
    from autoseg.interop.dicom_seg import write_dicom_seg
    from autoseg.parts import READERS
    from autoseg.store import whole

    if job.reader != "dicom":
        return None
    target = label.with_name(f"{job.stem}.dcm")
    array = READERS.build("nifti").read_label(label).array[0]
    with whole(target) as temporary:
        write_dicom_seg(temporary, array, question, job.files)
    return target


def _way(asked: dict[str, Any]) -> Way:
    from autoseg.pipeline.opening import Way

    fast, scales = asked["fast"], asked["scales"]
    return Way(
        step=asked["step"] or (FAST_STEP if fast else 0.5), mirror=not (asked["no_mirror"] or fast),
        scales=_scales(scales) if scales else (1.0,), depth=asked["depth"], pruned=fast, engine=asked["engine"],
        precision=asked["precision"], postprocess=not asked["no_postprocessing"],
    )  # fmt: skip


def _models(session: Session, asked: dict[str, Any], way: Way) -> list[Model]:
    """The model on every device that takes part: all GPUs for `auto` and `cuda`."""
    from autoseg.pipeline.opening import devices_of, of_task, opened

    titles = [title.strip() for title in asked["config"].split(",")] if asked["config"] else None
    folds = [fold.strip() for fold in asked["folds"].split(",")] if asked["folds"] else None
    where = devices_of(asked["device"])
    if asked["file"] is not None:
        return opened(asked["file"], where, way, session.plugins, session.voice, titles, folds)
    plan = session.plan(asked["task"], asked["plan"])
    return of_task(session.home, plan, where, way, session.plugins, session.voice, titles, folds)


def _scales(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0.1 <= scale <= 10 for scale in found):
        raise BadUsage(f"{text!r} are no scales", where="--scales", expected="numbers from 0.1 to 10: 0.75,1,1.25")
    return found


def _price(session: Session, asked: dict[str, Any]) -> None:
    """The table of what step, mirrors and scales cost and bring."""
    from autoseg.cli.session import table
    from autoseg.pipeline.pricing import price

    taken = {"task", "plan", "device", "config", "engine", "shard"}
    if given := [name for name, value in asked.items() if value and name not in taken]:
        raise BadUsage(f"does not go with --{given[0].replace('_', '-')}", where="--price")
    plan = session.plan(asked["task"], asked["plan"])
    rows = price(session.home, plan, asked["device"], session.plugins, session.voice, asked["config"])
    cells = ([row.way, f"{row.seconds:.2f}", "–" if row.dice is None else f"{row.dice:.4f}"] for row in rows)
    table(f"{plan.task}, {rows[0].configuration}: {rows[0].cases} held-out cases",
          ["way", "seconds per case", "Dice"], cells)  # fmt: skip
