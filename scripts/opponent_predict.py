"""Predicts with nnU-Net, in its own environment: opponent_predict.py model|arrays|predict SPEC

SPEC is JSON; `root` in it holds nnUNet_raw, nnUNet_preprocessed and nnUNet_results. The answer is one JSON object on
the last line of stdout. bench_predict.py calls this and says what the fields mean.
"""

import contextlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

FOLDERS = ("raw", "preprocessed", "results")
TRAINER = "nnUNetTrainer"
COPIES = {"decoder.encoder.": "encoder.", ".all_modules.0.": ".conv.", ".all_modules.1.": ".norm."}


def folder_of(spec):
    """Where nnU-Net looks for the model."""
    title = f"{TRAINER}__{spec['plans']}__{spec['configuration']}"
    return _place("results", spec) / title


def _place(kind, spec):
    return Path(os.environ[f"nnUNet_{kind}"]) / spec["name"]


def model(spec):
    """A trained model of nnU-Net's with another's weights (an .npz under nnU-Net's names) and normalisation."""
    import numpy as np
    import torch
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    described = json.loads((_place("raw", spec) / "dataset.json").read_text())
    plans = _normalising(json.loads((_place("preprocessed", spec) / f"{spec['plans']}.json").read_text()), spec)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(spec["configuration"])
    channels = determine_num_input_channels(manager, configuration, described)
    outputs = manager.get_label_manager(described).num_segmentation_heads
    network = _trainer().build_network_architecture(
        manager, configuration, channels, outputs, enable_deep_supervision=False
    )  # fmt: skip
    with np.load(spec["weights"]) as file:
        _give(network, {name: torch.from_numpy(file[name]) for name in file.files})
    folder = folder_of(spec)
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    for name, content in (("dataset", described), ("plans", plans)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    started = {"plans": plans, "configuration": spec["configuration"], "fold": 0, "dataset_json": described}
    torch.save({
        "network_weights": network.state_dict(), "optimizer_state": {}, "grad_scaler_state": None, "logging": {},
        "_best_ema": None, "current_epoch": 1, "init_args": started, "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": tuple(spec["mirror"]),
    }, folder / "fold_0" / "checkpoint_final.pth")  # fmt: skip
    return {"parameters": sum(weight.numel() for weight in network.parameters()), "patch": configuration.patch_size}


def _trainer():
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return nnUNetTrainer


def _normalising(plans, spec):
    """The plans with another's normalisation, one scheme per channel."""
    one = plans["configurations"][spec["configuration"]]
    one["normalization_schemes"] = [channel["scheme"] for channel in spec["normalise"]]
    one["use_mask_for_norm"] = [channel["masked"] for channel in spec["normalise"]]
    for number, channel in enumerate(spec["normalise"]):
        plans["foreground_intensity_properties_per_channel"][str(number)].update(channel["properties"])
    return plans


def _give(network, weights):
    """Gives the network weights without the copies that its state lists under further names."""
    missing, strange = network.load_state_dict(weights, strict=False)
    lacking = [name for name in missing if _plain(name) not in weights]
    if strange or lacking:
        raise SystemExit(f"the weights do not fit: {[*strange, *lacking][:5]}")


def _plain(name):
    for copy, first in COPIES.items():
        name = name.replace(copy, first)
    return name


def arrays(spec):
    """What the network would be given of each of these cases, as .npy in a folder."""
    import numpy as np
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder, out = folder_of(spec), Path(spec["out"])
    manager = PlansManager(str(folder / "plans.json"))
    configuration = manager.get_configuration(spec["configuration"])
    out.mkdir(parents=True, exist_ok=True)
    for case, files in spec["cases"].items():
        maker = configuration.preprocessor_class(verbose=False)
        made = maker.run_case(files, None, manager, configuration, str(folder / "dataset.json"))[0]
        np.save(out / f"{case}.npy", np.asarray(made, np.float32))
    return {}


def predict(spec):
    """nnUNetv2_predict itself, on a CPU with so many threads, where it would take all processors of the machine."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    multiprocessing.cpu_count = lambda: spec["threads"]
    words = {"-d": spec["name"], "-p": spec["plans"], "-c": spec["configuration"], "-tr": TRAINER, "-f": "0",
             "-i": spec["images"], "-o": spec["out"], "-device": spec["device"], "-step_size": spec["step"],
             "-npp": 1, "-nps": 1}  # fmt: skip
    sys.argv = ["nnUNetv2_predict", *(str(word) for pair in words.items() for word in pair)]
    sys.argv += [] if spec["mirrors"] else ["--disable_tta"]
    predict_entry_point()


def main(what, text):
    spec = json.loads(text)
    # what nnU-Net reads when it is imported
    os.environ.update({f"nnUNet_{kind}": str(Path(spec["root"]) / f"nnUNet_{kind}") for kind in FOLDERS})
    with contextlib.redirect_stdout(sys.stderr):
        answer = {"model": model, "arrays": arrays, "predict": predict}[what](spec)
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
