"""Writes plans/reference/: what the planner makes of the ten decathlon tasks for a GPU of 8 GB.

    python scripts/reference_plans.py [--table]

--table prints how they differ from nnU-Net's plans of the same fingerprints, as Markdown. The last line on stderr says
how long a plan took; the first of a process also waits for torch's import.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

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
    seconds = []
    for task in decathlon.TASKS:
        began = time.perf_counter()
        made = decathlon.plan(task)
        seconds.append(time.perf_counter() - began)
        (folder / f"{task}.json").write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for title, one in made.configurations.items():
            theirs = decathlon.facts(task)["nnunet"].get(title)
            if wanted.table and theirs:
                patch, other = ("×".join(map(str, p)) for p in (one.patch, theirs["patch"]))
                memory = f"{one.memory.bytes / 1e9:.2f} GB"
                print(f"| {task} | `{title}` | {patch} | {one.batch} | {memory} | {other} | {theirs['batch']} |")
    print(
        f"first {seconds[0]:.1f} s, then median {median(seconds[1:]):.2f} s, most {max(seconds[1:]):.2f} s",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
