"""nnU-Net's plans of made-up fingerprints: opponent_plans.py FOLDER, run in the opponent's environment.

FOLDER holds task_NNN.json files: {"name", "planner", "memory", "dataset", "fingerprint"}; beside each goes its
plan_NNN.json: {"plans" or "error", "seconds"}.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path


def main(folder):
    with tempfile.TemporaryDirectory() as home:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(home) / name)
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
        from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

        planners = {"plain": ExperimentPlanner}
        planners |= {size: getattr(residual_encoder_unet_planners, f"nnUNetPlannerResEnc{size}") for size in "ML"}
        planners["XL"] = residual_encoder_unet_planners.nnUNetPlannerResEncXL
        for number, file in enumerate(sorted(folder.glob("task_*.json"))):
            answer = planned(json.loads(file.read_text()), number + 1, planners)
            (folder / file.name.replace("task_", "plan_")).write_text(json.dumps(answer))


def planned(task, number, planners):
    """The plans of one fingerprint, and how long the planner took."""
    name = f"Dataset{number:03d}_Made"
    raw, done = (Path(os.environ[folder]) / name for folder in ("nnUNet_raw", "nnUNet_preprocessed"))
    raw.mkdir(parents=True)
    done.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(task["dataset"]))
    (done / "dataset_fingerprint.json").write_text(json.dumps(task["fingerprint"]))
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            made = planners[task["planner"]](name, gpu_memory_target_in_gb=task["memory"])
            plans = made.plan_experiment()
    except Exception as problem:  # what it cannot plan is part of the comparison
        return {"error": f"{type(problem).__name__}: {problem}", "seconds": time.perf_counter() - began}
    return {"plans": plans, "seconds": time.perf_counter() - began}


main(Path(sys.argv[1]))
