"""Images as a model's networks see them: whole, or by windows where a raster is large."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.parts import READERS
from autoseg.pipeline.prediction import Model
from autoseg.steps import cases as casework

if TYPE_CHECKING:
    from autoseg.readers import Windows
    from autoseg.steps.predict import How, View


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


def views_by_windows(model: Model, how: How, windows: Windows, files: Sequence[Path]) -> list[View]:
    """What the networks of all configurations see of it, at every scale."""
    from autoseg.steps import predict as step
    from autoseg.steps.windowed import raster_source

    views = []
    for one in model.configurations:
        one.require()
        for scale in how.scales:
            scaled = step.at_scale(one.run.settings, scale, windows.grid)
            source = raster_source(windows, scaled, model.question, files=files)
            prepared = step.Prepared(source, source.geometry, source.valid_window)
            views.append(step.view(prepared, one.networks, scaled, model.question, model.device, one.precision, how))
    return views
