"""Every JSON file of autoseg as a frozen record."""

from autoseg.records.base import Part, R, Record, Shape, Spacing, amend, digest, parse
from autoseg.records.certainty import CaseCertainty, Certainty, Doubt
from autoseg.records.choice import NOTHING, Choice, Cleaning, Compared, Postprocessing, Pruned
from autoseg.records.fingerprint import CaseFacts, Fault, Fingerprint, Intensity, Objects, Values
from autoseg.records.model import Member, PackedModel, Seen, SeenChannel, Span, alike
from autoseg.records.plan import Configuration, Insert, Memory, Network, Place, Plan, Target, Train
from autoseg.records.predictions import Made
from autoseg.records.runs import Checkpoint, Means, Measures, Predicted, Run, Scores
from autoseg.records.tasks import REFERENCE, CaseFiles, Channel, Dataset, Folds, Kind, Question

__all__ = [
    "NOTHING",
    "REFERENCE",
    "CaseCertainty",
    "CaseFacts",
    "CaseFiles",
    "Certainty",
    "Channel",
    "Checkpoint",
    "Choice",
    "Cleaning",
    "Compared",
    "Configuration",
    "Dataset",
    "Doubt",
    "Fault",
    "Fingerprint",
    "Folds",
    "Insert",
    "Intensity",
    "Kind",
    "Made",
    "Means",
    "Measures",
    "Member",
    "Memory",
    "Network",
    "Objects",
    "PackedModel",
    "Part",
    "Place",
    "Plan",
    "Postprocessing",
    "Predicted",
    "Pruned",
    "Question",
    "R",
    "Record",
    "Run",
    "Scores",
    "Seen",
    "SeenChannel",
    "Shape",
    "Spacing",
    "Span",
    "Target",
    "Train",
    "Values",
    "alike",
    "amend",
    "digest",
    "parse",
]
