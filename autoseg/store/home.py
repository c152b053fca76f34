"""The home folder: what lies where."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import BadPlan, BadTask, BadUsage, nearest
from autoseg.records import Choice, Fingerprint, Folds, Plan, Record, Scores
from autoseg.store.cases import Preprocessed
from autoseg.store.files import load_record, save_record
from autoseg.store.runs import RunFolder

DEFAULT_PLAN = "default"
DATASET_FILE = "dataset.json"
FOLDS = "folds"  # no plan's name: TASK.folds.json holds the folds


class Current(Record):
    """The task and plan that commands use when they are not told another."""

    task: str
    plan: str


@dataclass(frozen=True)
class Home:
    """A folder with `datasets/`, `plans/` and `work/`.

    `corner` names a part of a task's work that has folds, runs and choices of its own; "" for the usual ones.
    """

    root: Path
    corner: str = ""

    def tasks(self) -> list[str]:
        """Names of all task folders."""
        folder = self.root / "datasets"
        return sorted(p.name for p in folder.iterdir() if (p / DATASET_FILE).is_file()) if folder.is_dir() else []

    def task(self, beginning: str) -> str:
        """The task of that name or unambiguous beginning. Raises: BadTask that lists what there is."""
        known = self.tasks()
        if beginning in known:
            return beginning
        found = [name for name in known if name.lower().startswith(beginning.lower())]
        if len(found) == 1:
            return found[0]
        where = str(self.root / "datasets")
        if found:
            raise BadTask(f"{beginning!r} could be {' or '.join(found)}", where=where, remedy="write more of the name")
        raise BadTask(
            f"no task begins with {beginning!r}{nearest(beginning, known)}",
            where=where,
            expected=f"one of {', '.join(known)}" if known else "a folder with a dataset.json",
            remedy="" if known else "put a task there, make one with autoseg add, or name another --home",
        )

    def task_folder(self, task: str) -> Path:
        return self.root / "datasets" / task

    def new_task_file(self, name: str) -> Path:
        """Where the description of a new task is written. Raises: BadUsage when there is one already."""
        _require_name(name, "task")
        file = self.task_folder(name) / DATASET_FILE
        if file.exists():
            raise BadUsage(f"task {name} exists already", where=str(file), remedy="remove it or take another name")
        return file

    def plan_file(self, task: str, plan: str) -> Path:
        """Where a plan lies. Raises: BadUsage for a name that would lie elsewhere, or in the place of the folds."""
        _require_name(plan, "plan")
        return self.root / "plans" / (f"{task}.json" if plan == DEFAULT_PLAN else f"{task}.{plan}.json")

    def drawing_file(self, task: str, plan: str, configuration: str) -> Path:
        file = self.plan_file(task, plan)
        return file.with_name(f"{file.stem}.{configuration}.svg")

    def folds_file(self, task: str) -> Path:
        return self._work(task) / "folds.json" if self.corner else self.root / "plans" / f"{task}.{FOLDS}.json"

    def _work(self, task: str) -> Path:
        return self.root / "work" / task / self.corner

    def fingerprint_file(self, task: str) -> Path:
        return self.root / "work" / task / "fingerprint.json"

    def preprocessed(self, task: str, key: str) -> Preprocessed:
        return Preprocessed(self.root / "work" / task / "preprocessed" / key)

    def run_folder(self, task: str, plan: str, configuration: str, fold: int | str, seed: int) -> RunFolder:
        runs = self._work(task) / "runs"
        return RunFolder(runs / plan / configuration / f"fold_{fold}" / f"seed_{seed}")

    def runs(self, task: str, plan: str) -> list[RunFolder]:
        """The runs of a plan, those that were set aside left out."""
        runs = (self._work(task) / "runs" / plan).glob("*/fold_*/seed_*")
        return [RunFolder(folder) for folder in sorted(runs) if ".old" not in folder.name]

    def ensembles(self, task: str, plan: str) -> Path:
        """Where lies what ensembles of a plan's configurations say of cases held out."""
        return self._work(task) / "ensembles" / plan

    def choice_file(self, task: str, plan: str) -> Path:
        return self._work(task) / "choices" / plan / "choice.json"

    def model_file(self, task: str, plan: str) -> Path:
        """Where the model that was chosen is packed."""
        return self.choice_file(task, plan).with_name("model.autoseg")

    def report_file(self, task: str, plan: str, name: str = "report") -> Path:
        return self._work(task) / "reports" / plan / f"{name}.html"

    def choice_scores_file(self, task: str, plan: str) -> Path:
        return self.choice_file(task, plan).with_name("scores.json")

    def choice_scores(self, task: str, plan: str) -> Scores | None:
        """The scores of the model that was chosen, over the cases that were held out; None before one was."""
        file = self.choice_scores_file(task, plan)
        return load_record(Scores, file) if file.exists() else None

    def choice(self, task: str, plan: str) -> Choice | None:
        """The model that was chosen for a plan; None before one was."""
        file = self.choice_file(task, plan)
        return load_record(Choice, file) if file.exists() else None

    def plan(self, task: str, plan: str) -> Plan:
        """The plan. Raises: BadUsage when there is none yet, BadPlan when the file holds another's."""
        file = self.plan_file(task, plan)
        if not file.exists():
            name = "" if plan == DEFAULT_PLAN else f" --as {plan}"
            raise BadUsage("there is no such plan", where=str(file), remedy=f"make it with autoseg plan {task}{name}")
        found = load_record(Plan, file)
        if (found.task, found.name) != (task, plan):
            raise BadPlan(
                f"is the plan {found.name!r} of {found.task}",
                where=str(file),
                expected=f"the task {task!r} and the name {plan!r}",
                remedy="write these into its fields task and name, or make a variant with autoseg plan --as",
            )
        return found

    def folds(self, task: str) -> Folds | None:
        file = self.folds_file(task)
        return load_record(Folds, file) if file.exists() else None

    def fingerprint(self, task: str) -> Fingerprint | None:
        file = self.fingerprint_file(task)
        return load_record(Fingerprint, file) if file.exists() else None

    def current(self) -> Current | None:
        file = self.root / "work" / "current.json"
        return load_record(Current, file) if file.exists() else None

    def make_current(self, task: str, plan: str) -> None:
        save_record(self.root / "work" / "current.json", Current(task=task, plan=plan))

    def free_bytes(self) -> int:
        """Free space of the disk that holds the home."""
        return shutil.disk_usage(self.root).free


def _require_name(name: str, what: str) -> None:
    """Raises: BadUsage for a name that cannot name files of its own."""
    if not name or name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
        raise BadUsage(f"{name!r} cannot name a {what}", expected="a name without slashes that begins with no dot")
    if name == FOLDS:
        raise BadUsage(f"a {what} cannot be called {name!r}", remedy="take another name")
