"""An input on its way through the stages, and how it is given up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoseg.errors import BadInput
from autoseg.pipeline.extras import Extra
from autoseg.pipeline.inputs import Job
from autoseg.pipeline.sinks import Sink

if TYPE_CHECKING:
    from autoseg.image import Image
    from autoseg.readers import Windows
    from autoseg.steps.views import View


@dataclass
class Opened:
    """An input on its way. `views` are what the networks see of it; what is open is closed by `stack`; `way` is how it
    was predicted, where that differs from the others."""

    job: Job
    content: str
    began: float
    image: Image | None = None
    views: list[View] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    windows: Windows | None = None
    notes: tuple[str, ...] = ()
    sink: Sink | None = None
    extras: list[Extra] = field(default_factory=list)
    fault: str = ""
    way: str = ""
    done: bool = False


@contextmanager
def set_aside(one: Opened) -> Iterator[None]:
    """A case that cannot be used, or that the memory does not hold, fails alone; nothing else does, and none leaves
    anything behind."""
    from autoseg.steps.backward import is_out_of_memory

    try:
        yield
    except (BadInput, MemoryError) as problem:
        give_up(one, problem)
    except RuntimeError as problem:
        give_up(one, MemoryError() if is_out_of_memory(problem) else None)
        if not one.fault:
            raise
    except BaseException:
        give_up(one, None)
        raise


def give_up(one: Opened, problem: BaseException | None) -> None:
    """Leaves nothing of a case behind; `problem` is what it fails for."""
    if problem is not None:
        one.fault = "memory ran out" if isinstance(problem, MemoryError) else str(problem)
    takers: list[Sink | Extra] = [*([one.sink] if one.sink else []), *one.extras]
    for taker in takers:
        taker.abandon()
    one.stack.close()
    one.image, one.sink, one.windows, one.views, one.extras = None, None, None, [], []


def names_of(job: Job) -> set[str]:
    """What the files of a case may be called."""
    flat = "" if job.ending.startswith(".n") or job.ending.startswith(".m") else ".tif"
    values = flat or ".nii.gz"
    beside = (".probabilities.b2nd", f".entropy{values}", f".disagreement{values}", ".preview.png", ".geojson", ".dcm")
    return {job.stem + ending for ending in (job.ending, *beside)}
