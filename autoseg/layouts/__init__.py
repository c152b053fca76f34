"""A folder of images and labels to a Dataset: the layout is recognised by the folder's dataset.json."""

from __future__ import annotations

from pathlib import Path

from autoseg.errors import BadTask
from autoseg.layouts import common, msd, native, nnunet
from autoseg.layouts.add import from_globs
from autoseg.layouts.folds import extend_folds, make_folds
from autoseg.layouts.splits import read_splits
from autoseg.records import Dataset, Fault

__all__ = ["extend_folds", "from_globs", "make_folds", "read_splits", "read_task"]


def read_task(folder: Path) -> tuple[Dataset, tuple[Fault, ...]]:
    """The task that lies in a folder, and what is wrong with its files: missing ones and orphans.

    A case with a missing file (a fatal fault) stays in the dataset. The dataset is named after the folder;
    its paths are relative to it. Images are not opened.

    Raises: BadTask for a missing or malformed dataset.json, naming the file and the field.
    """
    file = folder / "dataset.json"
    description = common.read_json(file)
    if "autoseg" in description:
        return native.read(folder, description)
    if "training" in description:
        return msd.read(folder, description)
    if "channel_names" in description or "modality" in description or "dataset" in description:
        return nnunet.read(folder, description)
    raise BadTask(
        "there is no field 'training', 'channel_names' or 'autoseg'",
        where=str(file),
        expected="a dataset.json as the decathlon (MSD), nnU-Net v2 or autoseg write it",
        remedy="add the fields, or make the task with: autoseg add NAME --images GLOB --labels GLOB",
    )
