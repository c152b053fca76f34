"""Writes plans/reference/: what the planner makes of the ten decathlon tasks for a GPU of 8 GB.

    python scripts/reference_plans.py [--table]

--table prints how they differ from nnU-Net's plans of the same fingerprints, as Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the fixtures are those of the tests

from tests.steps import decathlon  # noqa: E402


def main() -> None:
    """Writes the plans; prints the table when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    wanted = parser.parse_args()
    folder = ROOT / "plans" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    if wanted.table:
        print("| task | configuration | patch | batch | memory (estimate) | nnU-Net's patch | batch |")
        print("|---|---|---|---|---|---|---|")
    for task in decathlon.TASKS:
        made = decathlon.plan(task)
        (folder / f"{task}.json").write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for title, one in made.configurations.items():
            theirs = decathlon.facts(task)["nnunet"].get(title)
            if wanted.table and theirs:
                patch, other = ("×".join(map(str, p)) for p in (one.patch, theirs["patch"]))
                memory = f"{one.memory.bytes / 1e9:.2f} GB"
                print(f"| {task} | `{title}` | {patch} | {one.batch} | {memory} | {other} | {theirs['batch']} |")


if __name__ == "__main__":
    main()
