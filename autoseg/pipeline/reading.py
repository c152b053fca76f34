"""Images as a model's networks see them: whole, or by windows where a raster is large."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.image import volume_spacing
from autoseg.parts import READERS
from autoseg.pipeline.prediction import Model
from autoseg.steps import cases as casework

if TYPE_CHECKING:
    from autoseg.image import Image
    from autoseg.readers import Windows
    from autoseg.records import Configuration, Question
    from autoseg.steps.views import How, View


def opened_raster(model: Model, files: Sequence[Path], reader: str, stack: ExitStack, large: int) -> Windows | None:
    """A raster of more values than `large`, to be read by windows; it stays open until the stack is closed.

    None for what is read whole: smaller rasters, volumes, and any image of a cascade, whose earlier label is whole.
    """
    made = READERS.build(reader)
    if not hasattr(made, "open_windows") or any(one.earlier for one in model.configurations):
        return None
    with ExitStack() as opened:
        windows: Windows = opened.enter_context(made.open_windows(files))
        rows, columns = windows.shape
        if windows.channels * rows * columns <= large:
            return None
        casework.require_channels(windows.channels, list(files), model.question)
        stack.push(opened.pop_all())
        return windows


def prepared_bytes(image: Image, settings: Configuration, question: Question, scale: float) -> int:
    """Of an image as the networks of a configuration see it at a scale."""
    from autoseg.steps import preprocess
    from autoseg.steps.views import at_scale

    scaled = at_scale(settings, scale, image)
    geometry = preprocess.geometry_of(image, scaled, question)
    spacing = [volume_spacing(image.spacing)[axis] for axis in scaled.axes]
    shape = preprocess.target_shape(geometry.cropped, spacing, scaled)
    return 4 * preprocess.inputs(scaled.normalise, question, scaled.previous) * prod(shape)


def views_by_windows(model: Model, how: How, windows: Windows, files: Sequence[Path]) -> list[View]:
    """What the networks of all configurations see of it, at every scale."""
    from autoseg.steps import views as step
    from autoseg.steps.windowed import CACHE, HELD, raster_source

    views, count = [], len(model.configurations) * len(how.scales)
    rooms = {"held": min(HELD, how.room // (2 * count)), "room": min(CACHE, how.room // (4 * count))}
    for one in model.configurations:
        one.require()
        for scale in how.scales:
            scaled = step.at_scale(one.run.settings, scale, windows.grid)
            source = raster_source(windows, scaled, model.question, files=files, **rooms)
            prepared = step.Prepared(source, source.geometry, source.valid_window)
            views.append(step.view(prepared, one.networks, scaled, model.question, model.device, one.precision, how))
    return views
