"""Models that leave the machine: opened anywhere, used from the command line or from Python."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.errors import AutosegError, BadData, BadFile, BadUsage, RunFailed
from autoseg.image import Array, Image, Mask
from autoseg.pipeline.networks import at_depth, built
from autoseg.plugins import LOADED, load_files, load_installed, require
from autoseg.records import NOTHING, Configuration, Member, PackedModel, Postprocessing, Question, Run
from autoseg.steps.unlike import unlike
from autoseg.store.archive import open_packed, weights_in

if TYPE_CHECKING:
    from autoseg.pipeline.prediction import Model

NO_PLUGINS: Mapping[str, str] = MappingProxyType({})


def load_members(
    path: Path,
    device: str = "auto",
    plugins: Mapping[str, str] = NO_PLUGINS,
    *,
    fast: int | None = None,
    wanted: Callable[[Member], bool] = lambda member: True,
) -> tuple[PackedModel, list[tuple[Member, Any]]]:
    """A model's record, and its members with their networks in evaluation mode on the device; others are not read.

    Args:
        fast: as of `network_of`, for those that the model predicts with.
    Raises: BadUsage for what is no model, or a plug-in that is not loaded; BadFile for a damaged one.
    """
    from autoseg.steps import device as devices
    from autoseg.steps.direct import direct

    chosen = devices.choose(device)
    packed, record = open_packed(path)
    found = []
    for member in record.members:
        if wanted(member):
            require(member.plugins, plugins)
            depth = fast if member.configuration in record.configurations else None
            where = f"{path} ({member.weights})"
            network = network_of(member.settings, record.question, weights_in(packed, member), where, depth)
            found.append((member, direct(network.to(chosen).eval())))
    return record, found


def network_of(
    settings: Configuration, question: Question, weights: Mapping[str, Any], where: str, fast: int | None = None
) -> Any:
    """The network with these weights, ready to predict, without what prediction does not need.

    Args:
        fast: predict with the head of this depth alone, of several.
    Raises: BadFile where the weights are another network's; BadUsage for a depth where there are no such heads.
    """
    from autoseg.nets.blocks.repvgg import fuse
    from autoseg.steps.weights import load_network

    _require_size(settings, question, weights, where)
    try:
        network, idle = built(settings if fast is None else at_depth(settings, fast), question)
        load_network(network, {name: tensor for name, tensor in weights.items() if name not in idle})
    except RunFailed as problem:
        raise BadFile(problem.what, where=where) from None
    return fuse(network)


def _require_size(settings: Configuration, question: Question, weights: Mapping[str, Any], where: str) -> None:
    """Raises: BadFile unless the network, built without its numbers, has as many as there are: small files make none
    that fills the memory."""
    import torch

    from autoseg.nets.survey import Undrawn
    from autoseg.steps.learner import build_network

    blocks = sum(settings.network.depths) + sum(settings.network.decoder_depths)
    if blocks > 1000 + 10 * len(weights):
        raise BadFile(f"a network of {blocks} blocks cannot have {len(weights)} weights", where=where)
    try:
        with torch.device("meta"), Undrawn():
            numbers = sum(value.numel() for value in build_network(settings, question).state_dict().values())
    except Exception as problem:  # is raised again where it is built with numbers, if it is not for want of them
        if isinstance(problem, AutosegError) and problem.__cause__ is None:
            raise
        return
    here = sum(tensor.numel() for tensor in weights.values())
    if numbers != here:
        raise BadFile(f"the network has {numbers:,} numbers, and its weights {here:,}", where=where)


def run_of(record: PackedModel, member: Member) -> Run:
    """What is known of the run that a member was."""
    return Run(
        task=record.task, plan=record.plan, configuration=member.configuration, fold=member.fold, seed=member.seed,
        settings=member.settings, question=record.question, folds="", device="", precision=member.precision,
        threads=1, plugins=member.plugins, version=record.version,
    )  # fmt: skip


def chosen(
    record: PackedModel, config: str | None = None, folds: Sequence[str] | None = None
) -> dict[str, tuple[Member, ...]]:
    """The members to predict with, of a configuration or several ("2d,3d"; None: all), of some folds (None: all).

    Raises: BadUsage where there is none.
    """
    titles = record.configurations if config is None else tuple(title.strip() for title in config.split(","))
    if unknown := [title for title in titles if title not in record.configurations]:
        there = ", ".join(record.configurations)
        raise BadUsage(f"the model has no configuration {unknown[0]!r}", where="--config", expected=f"one of {there}")
    found = {}
    for title in titles:
        known = {str(member.fold): member for member in record.members_of(title)}
        if missing := [fold for fold in folds or () if fold not in known]:
            what = f"the model has no fold {missing[0]} of {title}"
            raise BadUsage(what, where="--folds", expected=f"of {', '.join(known)}")
        found[title] = tuple(one for one in record.members_of(title) if not folds or str(one.fold) in folds)
    return found


def open_model(
    path: Path,
    device: str = "auto",
    plugins: Mapping[str, str] = NO_PLUGINS,
    *,
    config: str | None = None,
    folds: Sequence[str] | None = None,
    fast: int | None = None,
    postprocess: bool = True,
    **options: Any,
) -> tuple[PackedModel, Model]:
    """A packed model's record and the model itself, ready to predict: its configurations beside each other.

    Args:
        config, folds: of those that it has, None for all; fast: see `network_of`.
        postprocess: whether what was chosen to be done to its labels is done; not where configurations are left out.
        options: further fields of `Model`: step, mirror, scales.
    Raises: as `load_members`; BadUsage for a configuration or fold that it has not.
    """
    from autoseg.pipeline.prediction import Model
    from autoseg.steps import device as devices

    main = chosen(open_packed(path)[1], config, folds)
    stages = {title: members[0].settings.previous for title, members in main.items()}
    files = {member.weights for members in main.values() for member in members}

    def wanted(member: Member) -> bool:
        return member.weights in files or member.configuration in stages.values()

    record, loaded = load_members(path, device, plugins, fast=fast, wanted=wanted)
    after = record.cleaning if postprocess else NOTHING
    networks, place = {member.weights: network for member, network in loaded}, devices.choose(device)

    def of(
        members: Sequence[Member], earlier: Model | None = None, beside: tuple[Model, ...] = (),
        after: Postprocessing = NOTHING,
    ) -> Model:  # fmt: skip
        runs = [run_of(record, member) for member in members]
        own = [networks[one.weights] for one in members]
        content = " ".join([*(one.sha256 for one in members), earlier.digest if earlier else ""])
        return Model(
            runs[-1], own, place, earlier=earlier, runs=runs, beside=beside, seen=record.seen, postprocessing=after,
            digest=f"{content} {fast or ''}".strip(), **options,
        )  # fmt: skip

    earlier = {before: of(record.members_of(before)) for before in stages.values() if before is not None}
    (first, members), *others = main.items()
    beside = tuple(of(more, earlier.get(str(stages[title]))) for title, more in others)
    # chosen for the whole model, it means nothing for a part of it
    whole = after if {*main} == {*record.configurations} else NOTHING
    return record, of(members, earlier.get(str(stages[first])), beside, whole)


# -- from Python ---------------------------------------------------------------------------------------


class LoadedModel:
    """A model in memory, for images that are in memory.

    Several threads may use one: they take turns where the networks compute. No processes are started.

    Attributes:
        record: all that the model says of itself.
        labels: the value that every class has in a label.
        channels: the names of the channels that an image must have, in order.
    """

    def __init__(self, record: PackedModel, model: Model) -> None:
        self.record = record
        self.labels = dict(record.question.labels)
        self.channels = tuple(channel.name for channel in record.question.channels)
        self._model = model
        self._turn = threading.Lock()  # some networks keep what they are working on

    def __repr__(self) -> str:
        titles = ", ".join(self.record.configurations)
        return f"<model of {self.record.task} ({titles}): {', '.join(self.labels)}>"

    def predict(self, array: Array, spacing: Sequence[float]) -> Array:
        """The label (*S) of an image, in the values of `labels`.

        Args:
            array: (C, z, y, x) or (C, y, x), of any number type; without C where there is one channel. Volumes have x
                from left to right, y from back to front and z from below upwards. NaN and inf are no measurement.
            spacing: that along every spatial axis of `array`, in its order: millimetres of volumes, metres of rasters,
                1 of pictures.
        Raises: BadData where they do not fit each other or the model.
        """
        image = self._image(array, spacing)
        with self._turn:
            return self._model.predict(image)

    def unlike(self, array: Array, spacing: Sequence[float]) -> tuple[str, ...]:
        """In what an image lies far from the training images, a sentence each; nothing where it does not."""
        image, seen = self._image(array, spacing), self.record.seen
        return () if seen is None else unlike(image, seen, self.record.question)

    def _image(self, array: Array, spacing: Sequence[float]) -> Image:
        """The image. Raises: BadData."""
        array, sizes = np.asarray(array), tuple(float(size) for size in spacing)
        if len(sizes) not in (2, 3) or not all(math.isfinite(size) and size > 0 for size in sizes):
            raise BadData(f"is {sizes}", where="spacing", expected="a number above 0 for each of (z, y, x) or (y, x)")
        if array.dtype.kind not in "biuf":
            raise BadData(f"holds {array.dtype}", where="array", expected="real numbers")
        if array.ndim == len(sizes) and len(self.channels) == 1:
            array = array[None]
        axes = "z, y, x" if len(sizes) == 3 else "y, x"
        if array.ndim != len(sizes) + 1 or len(array) != len(self.channels) or not array.size:
            named = f"{len(self.channels)} ({', '.join(self.channels)}), {axes}"
            raise BadData(f"has shape {array.shape}", where="array", expected=named)
        if array.dtype.kind == "b":
            array = array.astype(np.uint8)
        valid: Mask = np.ones(array.shape[1:], bool)
        for channel in array if array.dtype.kind == "f" else ():
            valid &= np.isfinite(channel)
        if not valid.any():
            raise BadData("no voxel is valid: all are NaN or inf", where="array")
        return Image(array, sizes, None if valid.all() else valid)


def load_model(
    path: str | Path,
    device: str = "auto",
    *,
    plugins: Iterable[str | Path] = (),
    config: str | None = None,
    folds: Sequence[int | str] | None = None,
    fast: int | None = None,
    step: float = 0.5,
    mirror: bool = True,
    scales: Sequence[float] = (1.0,),
    postprocess: bool = True,
) -> LoadedModel:
    """A model that `autoseg export` wrote, in memory.

    Args:
        path: a file that ends in .autoseg, or a model's folder.
        device: auto, cpu, cuda, cuda:N or mps.
        plugins: Python files with the parts of your own that it was trained with.
        config, folds: of those that the model has (None: all).
        fast: of a UNet++ the head of this depth alone.
        step: distance of tiles in patches, above 0 up to 1.
        mirror: whether to average over mirrored images.
        scales: sizes of the image, 1 for its own, over which to average.
        postprocess: whether to do to its labels what was chosen with the model.
    Raises: BadUsage where there is none, or a plug-in that it needs is not loaded; BadFile for a damaged one.
    """
    named = _loaded(Path(file) for file in plugins)
    load_installed(lambda text: warnings.warn(text, stacklevel=3))
    if not 0 < step <= 1 or not scales or not min(scales) > 0:
        what = "numbers above 0, and a step of at most 1"
        raise BadUsage(f"are {step} and {(*scales,)}", where="step and scales", expected=what)
    names = None if folds is None else [str(fold) for fold in folds]
    how: dict[str, Any] = {"step": step, "mirror": mirror, "scales": tuple(scales), "postprocess": postprocess}
    record, model = open_model(Path(path), device, named, config=config, folds=names, fast=fast, **how)
    return LoadedModel(record, model)


def _loaded(files: Iterable[Path]) -> dict[str, str]:
    """Loads plug-in files that this process has not loaded; answers the names and contents of all of them."""
    wanted = [file.resolve() for file in files]
    there = {plugin.file: plugin for plugin in LOADED if plugin.file is not None}
    fresh = load_files(file for file in wanted if file not in there)
    return fresh | {there[file].name: there[file].sha256() for file in wanted if file in there}
