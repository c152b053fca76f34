"""Every JSON file of autoseg as a frozen record."""

from autoseg.records.base import Part, R, Record, Shape, Spacing, amend, digest, parse
from autoseg.records.fingerprint import CaseFacts, Fault, Fingerprint, Intensity, Objects, Values
from autoseg.records.plan import Configuration, Insert, Memory, Network, Place, Plan, Target, Train
from autoseg.records.runs import Checkpoint, Means, Measures, Predicted, Run, Scores
from autoseg.records.tasks import REFERENCE, CaseFiles, Channel, Dataset, Folds, Kind, Question

__all__ = [
    "REFERENCE",
    "CaseFacts",
    "CaseFiles",
    "Channel",
    "Checkpoint",
    "Configuration",
    "Dataset",
    "Fault",
    "Fingerprint",
    "Folds",
    "Insert",
    "Intensity",
    "Kind",
    "Means",
    "Measures",
    "Memory",
    "Network",
    "Objects",
    "Part",
    "Place",
    "Plan",
    "Predicted",
    "Question",
    "R",
    "Record",
    "Run",
    "Scores",
    "Shape",
    "Spacing",
    "Target",
    "Train",
    "Values",
    "amend",
    "digest",
    "parse",
]
