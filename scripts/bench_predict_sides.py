"""The two sides of bench_predict.py: one trained network in both, the commands that predict, and what they agree in."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_predict_clock import measured
from bench_train_clock import say
from bench_train_sides import SCRIPTS, Ours, Theirs, answer, files_of, our_home, their_home

if TYPE_CHECKING:
    from autoseg.records import Configuration, Part, Question

# words of `autoseg predict` that are left out, which is said, where it has no such option
RAM, ENGINE, PRECISION = "--ram", "--engine", "--precision"


# -- the same model on both sides ---------------------------------------------------------------------


def trained(wanted: argparse.Namespace, plan: str = "default", words: tuple[str, ...] = ()) -> Ours:
    """A home with a run of fold 0 of so many steps, if it is not there."""
    ours = our_home(wanted, plan, words)
    folder = ours.home.run_folder(ours.task, ours.plan, wanted.configuration, 0, wanted.seed)
    run = folder.run()
    there = run is not None and run.settings.train.steps == wanted.steps
    if not (there and folder.ended()):
        say(f"autoseg: {wanted.steps} steps of training")
        options = ["--steps", str(wanted.steps), "--seed", str(wanted.seed), "--device", wanted.device]
        more = [] if there or run is None else ["--fresh"]
        ours.autoseg("train", wanted.configuration, "0", *options, *more, "-t", ours.task, "-p", ours.plan)
    return ours


def their_model(ours: Ours, wanted: argparse.Namespace) -> Theirs | None:
    """The same network with the same weights as a model of nnU-Net's; None without it."""
    theirs = their_home(ours, wanted.configuration, wanted)
    if theirs is None:
        return None
    configuration = ours.read().configurations[wanted.configuration]
    weights = theirs.root / f"weights_{theirs.plans}_{wanted.configuration}.npz"
    count = _export(ours, configuration, wanted, weights)
    found = opponent(
        theirs, "model", weights=str(weights), mirror=mirror_axes(configuration),
        normalise=[_scheme(part) for part in configuration.normalise],
    )  # fmt: skip
    if (found["parameters"], tuple(found["patch"])) != (count, configuration.patch):
        raise SystemExit(f"nnU-Net's network is another: {found}, ours has {count} parameters")
    return theirs


def opponent(theirs: Theirs, what: str, **spec: Any) -> Any:
    """Runs scripts/opponent_predict.py; its answer."""
    return answer(_opponent(theirs, what, **spec))


def _opponent(theirs: Theirs, what: str, **spec: Any) -> list[str]:
    where = {name: str(value) for name, value in asdict(theirs).items() if name != "python"}
    return [theirs.python, str(SCRIPTS / "opponent_predict.py"), what, json.dumps({**where, **spec})]


def _export(ours: Ours, configuration: Configuration, wanted: argparse.Namespace, file: Path) -> int:
    """Writes the weights under nnU-Net's names; how many numbers they are."""
    from autoseg.nets.nnunet import their_name
    from autoseg.records import Checkpoint
    from autoseg.steps.weights import weights_of
    from autoseg.store import load_tensors

    folder = ours.home.run_folder(ours.task, ours.plan, wanted.configuration, 0, wanted.seed)
    weights = weights_of(load_tensors(Checkpoint, folder.checkpoint_file)[1])
    np.savez(file, **{their_name(configuration.network, name): value.numpy() for name, value in weights.items()})
    return sum(value.numel() for value in weights.values())


def mirror_axes(configuration: Configuration) -> list[int]:
    """The axes that a prediction is averaged over mirrored."""
    from autoseg.parts import AUGMENTATIONS

    found = [part for part in configuration.train.augment if part.name == "mirror"]
    return [*AUGMENTATIONS.build(found[0], dims=configuration.dims).axes] if found else []


def _scheme(part: Part) -> dict[str, Any]:
    """A normaliser as nnU-Net has it. Raises: SystemExit where it has none such."""
    options: dict[str, Any] = dict(part.options)
    made: dict[str, Any] = {"masked": bool(options.pop("masked", False)), "properties": {}}
    if part.name in ("ct", "clip") and set(options) == {"lower", "upper", "mean", "sd"}:
        names = {"lower": "percentile_00_5", "upper": "percentile_99_5", "mean": "mean", "sd": "std"}
        properties = {names[name]: value for name, value in options.items()}
        return {**made, "scheme": "CTNormalization", "properties": properties}
    plain = {("zscore", ()): "ZScoreNormalization", ("none", ()): "NoNormalization",
             ("range", ()): "RescaleTo01Normalization",
             ("range", (("lower", 0.0), ("upper", 255.0))): "RGBTo01Normalization"}  # fmt: skip
    scheme = plain.get((part.name, tuple(sorted(options.items()))))
    if scheme is None:
        raise SystemExit(f"nnU-Net normalises nothing like {part.text}")
    return {**made, "scheme": scheme}


# -- images -------------------------------------------------------------------------------------------


def inputs(ours: Ours, count: int, folder: Path) -> dict[str, Path]:
    """Links to the first images of the task, named as nnU-Net wants them and ours takes them, in an emptied folder."""
    files = dict(sorted(files_of(ours).items())[:count])
    return laid({case: image for case, (image, _) in files.items()}, folder)


def laid(images: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The same of any images."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    links = {}
    for case, image in images.items():
        links[case] = folder / f"{case}_0000{'.nii.gz' if image.name.endswith('.nii.gz') else image.suffix}"
        links[case].symlink_to(image)
    return links


def apart(
    ours: Ours, theirs: Theirs, title: str, images: Mapping[str, Path], folder: Path
) -> dict[str, float]:  # fmt: skip
    """How far what the two networks are given of these images differs, `mean` and `largest`."""
    from autoseg.steps.cases import read_image
    from autoseg.steps.preprocess import prepare_image

    opponent(theirs, "arrays", out=str(folder), cases={case: [str(image)] for case, image in images.items()})
    plan, found = ours.read(), []
    for case, image in images.items():
        mine = prepare_image(read_image([image], plan.question), plan.configurations[title], plan.question)[0]
        their = np.load(folder / f"{case}.npy")
        if mine.shape != their.shape:
            raise SystemExit(f"{case} is preprocessed to {mine.shape} by autoseg, to {their.shape} by nnU-Net")
        found.append(np.abs(mine - their))
    return {"mean": float(max(one.mean() for one in found)), "largest": float(max(one.max() for one in found))}


# -- prediction ---------------------------------------------------------------------------------------


def our_prediction(ours: Ours, title: str, images: Path, out: Path, words: Iterable[str], **gpu: Any) -> dict[str, Any]:
    """`autoseg predict` as a whole process, of fold 0, with further words."""
    start = [sys.executable, "-m", "autoseg", "--home", str(ours.root), "predict", "-i", str(images), "-o", str(out)]
    shutil.rmtree(out, ignore_errors=True)  # labels of an earlier time might be taken for done
    return measured([*start, "-t", ours.task, "-p", ours.plan, "--config", title, "--folds", "0", *words], **gpu)


def their_prediction(
    theirs: Theirs, images: Path, out: Path, wanted: argparse.Namespace, *, mirrors: bool, gpu: bool = False
) -> dict[str, Any]:
    """`nnUNetv2_predict` as a whole process."""
    shutil.rmtree(out, ignore_errors=True)
    spec = {"images": str(images), "out": str(out), "threads": wanted.threads, "mirrors": mirrors}
    return measured(_opponent(theirs, "predict", **spec, device=wanted.device, step=wanted.step), gpu=gpu)


@functools.cache
def options() -> frozenset[str]:
    """The options that `autoseg predict` has."""
    command = [sys.executable, "-m", "autoseg", "predict", "--help"]
    wide = {**os.environ, "COLUMNS": "300"}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=wide).stdout
    return frozenset(re.findall(r"--[a-z][a-z-]+", told))


def taken(words: Mapping[str, str]) -> list[str]:
    """The words whose options `autoseg predict` has; the others are said."""
    for option in sorted(words.keys() - options()):
        _lacking(option)
    return [word for pair in words.items() if pair[0] in options() for word in pair]


@functools.cache
def _lacking(option: str) -> None:
    """Says it once."""
    say(f"autoseg predict has no {option}: done without it")


def ways(device: str) -> dict[str, list[str]]:
    """How ours can predict here: words for each row of a comparison. What cannot be had is said."""
    narrow, openvino = _has_bf16(device), importlib.util.find_spec("openvino") is not None and device == "cpu"
    torch_float = {ENGINE: "torch", PRECISION: "float32"}
    found = {}
    if narrow and PRECISION not in options():
        say(f"float32 is left out: autoseg predict has no {PRECISION}, and takes bf16 on this device")
    else:
        found["float32, torch"] = [word for pair in torch_float.items() if pair[0] in options() for word in pair]
    if not narrow:
        say("bf16 is left out: this device computes in float32")
    else:
        found["bf16, torch"] = taken({ENGINE: "torch", PRECISION: "bf16"})
    if not openvino or ENGINE not in options():
        lacking = f"autoseg predict has no {ENGINE}" if openvino else "it is not installed, or not for this device"
        say(f"OpenVINO is left out: {lacking}")
    else:
        found["OpenVINO"] = [ENGINE, "openvino"]
    return found


def _has_bf16(device: str) -> bool:
    from autoseg.steps import device as devices

    return devices.precision(devices.choose(device), "auto") == "bf16"


# -- agreement ----------------------------------------------------------------------------------------


def agreement(mine: Path, their: Path, question: Question) -> dict[str, Any]:
    """Share of voxels with the same label, `mean` and `worst` over the cases; `foreground`: share that is none of 0."""
    from autoseg.steps.cases import reader_of

    reader, shares, inside = reader_of(question), {}, []
    for file in sorted(their.iterdir()):
        if not file.name.endswith((".nii.gz", ".png", ".tif")):
            continue
        a, b = (reader.read_label(folder / file.name).array for folder in (mine, their))
        if a.shape != b.shape:
            raise SystemExit(f"{file.name} has {a.shape} voxels in {mine}, {b.shape} in {their}")
        shares[file.name] = float((a == b).mean())
        inside.append(float((b != 0).mean()))
    if not shares:
        raise SystemExit(f"{their} holds no labels")
    return {"mean": sum(shares.values()) / len(shares), "worst": min(shares.values()), "cases": shares,
            "foreground": sum(inside) / len(inside)}  # fmt: skip
