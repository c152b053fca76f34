"""The home folder. The only room that spells file names."""

from autoseg.store.cases import Prepared, Preprocessed, StoredCase, StoredLabels, read_indices, save_indices
from autoseg.store.files import (
    header_hash,
    load_header,
    load_record,
    load_tensors,
    lock,
    save_record,
    save_tensors,
    save_text,
    whole,
)
from autoseg.store.home import DATASET_FILE, DEFAULT_PLAN, Current, Home
from autoseg.store.runs import RunFolder

__all__ = [
    "DATASET_FILE",
    "DEFAULT_PLAN",
    "Current",
    "Home",
    "Prepared",
    "Preprocessed",
    "RunFolder",
    "StoredCase",
    "StoredLabels",
    "header_hash",
    "load_header",
    "load_record",
    "load_tensors",
    "lock",
    "read_indices",
    "save_indices",
    "save_record",
    "save_tensors",
    "save_text",
    "whole",
]
