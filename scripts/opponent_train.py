"""Trains with nnU-Net, in its own environment: opponent_train.py prepare|steps|train SPEC

SPEC is JSON; `root` in it holds nnUNet_raw, nnUNet_preprocessed and nnUNet_results. The answer is one JSON object on
the last line of stdout; what nnU-Net prints goes to stderr. bench_train.py calls this and says what the fields mean.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from bench_train_clock import cpu_seconds, say, timed_steps

FOLDERS = ("raw", "preprocessed", "results")
EPOCH = 30  # seconds that an epoch of a training within a budget lasts, about: nnU-Net's rate falls per epoch
PILOT = (8, 10)  # steps before, and while the pace is taken


def prepare(spec):
    """Raw dataset, fingerprint, plans (`own`: amended ones beside its default ones) and preprocessing, if not there."""
    raw, done = (Path(os.environ[f"nnUNet_{kind}"]) / spec["name"] for kind in ("raw", "preprocessed"))
    mark = done / f"done_{spec['plans']}_{spec['configuration']}.json"
    if not mark.exists() or json.loads(mark.read_text()) != spec:
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
        from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

        _lay_out(spec, raw)
        number = int(spec["name"][7:10])
        say("nnU-Net: fingerprint, plan, preprocessing")
        DatasetFingerprintExtractor(spec["name"], spec["workers"]).run(overwrite_existing=False)
        plans = ExperimentPlanner(spec["name"]).plan_experiment()
        if spec["own"] is not None:
            (done / f"{spec['plans']}.json").write_text(json.dumps(_amended(plans, spec), indent=1))
        configuration = spec["configuration"]
        preprocess_dataset(number, spec["plans"], [configuration], [spec["workers"]], show_progress_bar=False)
        (done / "splits_final.json").write_text(json.dumps(spec["splits"]))
        mark.write_text(json.dumps(spec))
    return {"configuration": json.loads((done / f"{spec['plans']}.json").read_text())["configurations"]}


def _lay_out(spec, raw):
    """nnU-Net's folder of links."""
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for case, image, label in spec["cases"]:
        for link, file in ((raw / "imagesTr" / f"{case}_0000{spec['ending']}", image),
                           (raw / "labelsTr" / f"{case}{spec['ending']}", label)):  # fmt: skip
            if not link.is_symlink():
                link.symlink_to(file)
    described = {"channel_names": spec["channels"], "labels": spec["labels"], "numTraining": len(spec["cases"]),
                 "file_ending": spec["ending"]}  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(described))


def _amended(plans, spec):
    """nnU-Net's plans with another's patch, batch, spacing and topology."""
    plans = json.loads(json.dumps(plans, default=lambda value: value.tolist()))  # numpy's numbers
    own, title = spec["own"], spec["configuration"]
    if title not in plans["configurations"]:
        raise SystemExit(f"nnU-Net plans no {title} for this task")
    one = plans["configurations"][title]
    one["architecture"]["arch_kwargs"].update(own["arch"])
    one.update({name: own[name] for name in ("patch_size", "batch_size", "spacing")})
    one["data_identifier"] = f"{spec['plans']}_{title}"
    axes = own["axes"]
    back = sorted(range(3), key=axes.__getitem__)
    return {**plans, "plans_name": spec["plans"], "transpose_forward": axes, "transpose_backward": back}


def trainer_of(spec):
    """nnU-Net's trainer, whose data loaders run."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    device = torch.device(spec["device"])
    if device.type == "cpu":
        torch.set_num_threads(spec["threads"])
    else:
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(spec["seed"])
    return get_trainer_from_args(
        spec["name"], spec["configuration"], 0, "nnUNetTrainer", spec["plans"], device=device
    )  # fmt: skip


def steps(spec):
    """Seconds of a training step with the wait for its data; what network, patch and batch it was."""
    trainer = trainer_of(spec)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    gpu = spec["device"] != "cpu"
    found = timed_steps(lambda: _step(trainer), spec["warm"], spec["steps"], gpu)
    facts = _facts(trainer)
    _stop(trainer)
    return {**found, **facts, "loaders": spec["loaders"], "compiled": trainer._do_i_compile()}


def _facts(trainer):
    network, plan = trainer.network, trainer.configuration_manager
    data = next(trainer.dataloader_train)["data"]
    assert tuple(data.shape[2:]) == tuple(plan.patch_size)
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()), "patch": list(plan.patch_size),
        "batch": len(data), "channels": data.shape[1], "optimiser": type(trainer.optimizer).__name__,
        "cases": len(trainer.do_split()[0]),
    }  # fmt: skip


def _step(trainer):
    return trainer.train_step(next(trainer.dataloader_train))


def _stop(trainer):
    """Ends the data loaders' processes and waits for them, so that their processor time is counted."""
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()
    for process in multiprocessing.active_children():
        process.join(10)


def pace(spec):
    """Seconds of a training step, of a validation step and of the end of an epoch, in an epoch that is thrown away."""
    import torch

    trainer = trainer_of(spec)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    warm, count = PILOT
    outputs = []
    step = timed_steps(lambda: outputs.append(_step(trainer)), warm, count)["seconds"]
    trainer.on_train_epoch_end(outputs)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        seen = []
        check = timed_steps(
            lambda: seen.append(trainer.validation_step(next(trainer.dataloader_val))), 4, count // 2
        )["seconds"]  # fmt: skip
        trainer.on_validation_epoch_end(seen)
    end = timed_steps(trainer.on_epoch_end, 0, 1)["seconds"]
    _stop(trainer)
    return step, check, end


def train(spec):
    """A training whose schedule ends with the budget, epochs' validation included, and its fold predicted whole."""
    budget = spec["minutes"] * 60
    step, check, end = pace(spec)
    epochs = max(1, min(1000, int(budget / max(EPOCH, 12 * step))))
    each = max(1, int((budget / epochs - end) / (step + check / 5)))  # nnU-Net: 50 batches of validation per 250
    say(f"nnU-Net: {step:.3f} s per step; {epochs} epochs of {each} steps")
    trainer = trainer_of(spec)
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, each
    trainer.num_val_iterations_per_epoch = max(1, each // 5)
    before, began = _used(), time.perf_counter()
    trainer.run_training()
    for process in multiprocessing.active_children():
        process.join(10)
    minutes, used = (time.perf_counter() - began) / 60, _used() - before
    facts = _facts_of(trainer)
    say("nnU-Net: predicting the fold")
    began = time.perf_counter()
    trainer.perform_actual_validation()
    return {
        "minutes": minutes, "steps": epochs * each, "epochs": epochs, "seconds_per_step": step, "train_cpu": used,
        "predict_minutes": (time.perf_counter() - began) / 60, "loaders": spec["loaders"],
        "predictions": str(Path(trainer.output_folder) / "validation"), **facts,
    }  # fmt: skip


def _facts_of(trainer):
    plan = trainer.configuration_manager
    total = sum(weight.numel() for weight in trainer.network.parameters())
    return {"parameters": total, "patch": list(plan.patch_size), "batch": plan.batch_size}


def _used():
    import resource

    return cpu_seconds() + cpu_seconds(resource.RUSAGE_SELF)


def main(what, text):
    spec = json.loads(text)
    # what nnU-Net reads when it is imported
    os.environ.update({f"nnUNet_{kind}": str(Path(spec["root"]) / f"nnUNet_{kind}") for kind in FOLDERS})
    os.environ.update({"nnUNet_n_proc_DA": str(spec.get("loaders", 1)), "nnUNet_def_n_proc": str(spec["workers"])})
    with contextlib.redirect_stdout(sys.stderr):
        answer = {"prepare": prepare, "steps": steps, "train": train}[what](spec)
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
