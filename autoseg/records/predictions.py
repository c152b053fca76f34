"""What was predicted of a folder of images."""

from __future__ import annotations

from autoseg.records.base import Record


class Made(Record):
    """What became of one input: a line of the list that `predict` keeps beside the labels.

    `inputs` is the SHA-256 of the contents of its files, `way` that of the model and of how it predicted; `outputs`
    holds that of every file that was written, by its name. `notes` are what was strange about it, `fault` why nothing
    was predicted.
    """

    case: str
    inputs: str = ""
    way: str = ""
    outputs: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    fault: str = ""
    seconds: float = 0.0
