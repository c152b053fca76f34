"""Models ready to predict, on one device or several: of a task's finished runs, or of an exported file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoseg.errors import BadUsage
from autoseg.pipeline.cascade import completed
from autoseg.pipeline.choosing import choose_runs, runs_of, standing
from autoseg.pipeline.networks import before_deepest
from autoseg.pipeline.prediction import Model, load_model
from autoseg.pipeline.voice import Silent, Voice
from autoseg.records import NOTHING, Plan
from autoseg.store import Home, RunFolder

if TYPE_CHECKING:
    from autoseg.steps.device import Precision

Engine = Literal["auto", "torch", "openvino"]
PAYS = 30.0


@dataclass(frozen=True)
class Way:
    """How a model is to predict.

    Attributes:
        step, mirror, scales: as in `steps.predict.How`.
        depth: of a UNet++ the head of this depth alone; pruned: the one before its deepest.
        engine: what computes on a CPU; precision: in what, None: as the plan says.
        postprocess: whether to do to the labels what was chosen with the model.
    """

    step: float = 0.5
    mirror: bool = True
    scales: tuple[float, ...] = (1.0,)
    depth: int | None = None
    pruned: bool = False
    engine: Engine = "torch"
    postprocess: bool = True
    precision: Precision | Literal["auto"] | None = None


def devices_of(wish: str) -> list[str]:
    """All GPUs for `auto` and `cuda` where there are several, else the device itself. Raises: BadUsage."""
    import torch

    from autoseg.steps import device as devices

    named = [one.strip() for one in wish.split(",")]
    if len(named) == 1 and named[0] in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    for one in named:
        devices.choose(one)
    return named


def of_task(
    home: Home, plan: Plan, where: Sequence[str], way: Way, plugins: Mapping[str, str], voice: Voice,
    titles: Sequence[str] | None = None, folds: Sequence[str] | None = None,
) -> list[Model]:  # fmt: skip
    """The model of a plan's finished runs on each of the devices; several configurations are averaged.

    Without `titles` that is the one that was chosen, where one was.
    Raises: BadUsage, BadFile where it is not there or damaged.
    """
    choice = None if titles or folds else standing(home, plan, voice)
    after = NOTHING
    if choice is not None:
        chosen, after = runs_of(home, choice), choice.cleaning.taken if way.postprocess else after
    else:
        chosen = [choose_runs(home, plan, voice, title, folds) for title in titles or (None,)]
    fingerprint = home.fingerprint(plan.task)
    seen = None
    if fingerprint is not None and fingerprint.usable:
        from autoseg.steps.unlike import seen_of

        seen = seen_of(fingerprint, plan.question)
    models = []
    for number, device in enumerate(where):
        told = voice if number == 0 else Silent()
        parts = [_part(home, runs, device, way, plugins, told) for runs in chosen]
        joined = replace(parts[0], beside=tuple(parts[1:]), seen=seen, postprocessing=after)
        models.append(_wanted(joined, way))
    return models


def _part(
    home: Home, runs: Sequence[RunFolder], device: str, way: Way, plugins: Mapping[str, str], voice: Voice
) -> Model:  # fmt: skip
    """The model of the runs of one configuration, with its earlier stage where it goes on from one."""
    run = runs[0].run()
    depth = before_deepest(run.settings) if way.pruned and run and not way.depth else way.depth
    model = load_model(runs, device, plugins, way.step, way.mirror, depth)
    return replace(completed(home, model, plugins, voice), scales=way.scales)


def opened(
    file: Path, where: Sequence[str], way: Way, plugins: Mapping[str, str], voice: Voice,
    titles: Sequence[str] | None = None, folds: Sequence[str] | None = None,
) -> list[Model]:  # fmt: skip
    """An exported model on each of the devices. Raises: BadUsage, BadFile."""
    from autoseg.pipeline.models import open_model
    from autoseg.store.archive import open_packed

    config = ",".join(titles) if titles else None
    depth, (_, packed) = way.depth, open_packed(file)
    if way.pruned and not depth:
        first = titles[0] if titles and titles[0] in packed.configurations else packed.configurations[0]
        depth = before_deepest(packed.members_of(first)[0].settings)
    models = []
    for number, device in enumerate(where):
        record, model = open_model(
            file, device, plugins, config=config, folds=folds, fast=depth,
            step=way.step, mirror=way.mirror, scales=way.scales, postprocess=way.postprocess,
        )  # fmt: skip
        if number == 0:
            voice.say(f"predicting with {file}: {record.task}, {', '.join(record.configurations)}")
        models.append(_wanted(model, way))
    return models


# -- what computes -------------------------------------------------------------------------------------


def on_engine(models: Sequence[Model], way: Way, images: int, voice: Voice) -> list[Model]:
    """The models with their networks on the engine that is asked for.

    `auto` takes OpenVINO on a CPU where it is installed and the images are expected to keep each network busy for
    longer than PAYS seconds, as making one ready takes some.
    Raises: BadUsage for OpenVINO where it is not installed, or on another device than a CPU.
    """
    from autoseg.steps import openvino

    if any(model.device.type != "cpu" for model in models):
        if way.engine == "openvino":
            raise BadUsage("computes on a CPU alone", where="--engine openvino", remedy="add --device cpu")
        return [*models]
    if way.engine == "openvino" and not openvino.available():
        raise BadUsage("is not installed", where="openvino", remedy="install it: pip install 'autoseg[export]'")
    asked = way.engine == "openvino"
    if asked or (way.engine == "auto" and openvino.available() and images * _seconds(models[0]) > PAYS):
        voice.say("computing with OpenVINO (--engine torch for torch)")
        return [_compiled(model, voice) for model in models]
    return [*models]


def _seconds(model: Model) -> float:
    """Of one tile with all its flips through one network, as torch computes it."""
    import torch

    from autoseg.steps import device as devices
    from autoseg.steps import preprocess, tiling

    settings = model.run.settings
    channels = preprocess.inputs(settings.normalise, model.question, settings.previous)
    tile, passes = torch.zeros(1, channels, *settings.patch), 2 ** len(tiling.mirror_axes(settings))
    with torch.inference_mode(), devices.autocast(model.device, model.precision):
        model.networks[0](tile)
        began = time.perf_counter()
        model.networks[0](tile)
    return (time.perf_counter() - began) * (passes if model.mirror else 1)


def _wanted(model: Model, way: Way) -> Model:
    """The model in the precision that is asked for."""
    if way.precision is None:
        return model
    return replace(_in(model, way.precision), beside=tuple(_in(one, way.precision) for one in model.beside))


def _in(model: Model, precision: Precision | Literal["auto"]) -> Model:
    """The model to compute in another precision."""
    train = model.run.settings.train.model_copy(update={"precision": precision})
    settings = model.run.settings.model_copy(update={"train": train})
    run = model.run.model_copy(update={"settings": settings})
    earlier = None if model.earlier is None else _in(model.earlier, precision)
    return replace(model, run=run, earlier=earlier, digest=f"{model.digest} {precision}")


def _compiled(model: Model, voice: Voice) -> Model:
    """The networks of all configurations as OpenVINO computes them; those that it cannot take stay torch's."""
    from autoseg.steps import openvino, preprocess

    def one(part: Model) -> Model:
        settings = part.run.settings
        channels = preprocess.inputs(settings.normalise, part.question, settings.previous)
        try:
            networks = [openvino.compiled(net, channels, settings.patch, part.precision, None) for net in part.networks]
        except openvino.NotConverted as problem:
            voice.say(f"{part.run.configuration} is computed by torch: {problem}")
            return part
        earlier = None if part.earlier is None else one(part.earlier)
        return replace(part, networks=networks, earlier=earlier, digest=f"{part.digest} openvino {part.precision}")

    return replace(one(model), beside=tuple(one(part) for part in model.beside))
