"""Networks of nnU-Net's numbers hold nnU-Net's weights and give its answers (made by scripts/check_networks.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from autoseg.nets import nnunet, survey

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.safetensors"))


def test_the_fixtures_are_there() -> None:
    assert [file.stem for file in FIXTURES] == [
        f"small_{kind}_{dims}d" for kind in ("resenc", "unet") for dims in (2, 3)
    ]


@pytest.mark.parametrize("file", FIXTURES, ids=[file.stem for file in FIXTURES])
def test_weights_of_nnunet_give_its_outputs(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        spec = json.loads(opened.metadata()["spec"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    network = nnunet.network_of(spec["arch_kwargs"])
    module = survey.build(network, spec["channels"], spec["classes"], tuple(spec["patch"]))
    theirs = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    names = [nnunet.their_name(network, name) for name in module.state_dict()]
    assert sorted(names) == sorted(theirs)  # each of theirs has one place
    assert sum(weight.numel() for weight in module.parameters()) == spec["parameters"]
    module.load_state_dict(nnunet.renamed(network, module, theirs))
    expected = [tensors[name] for name in sorted(tensors) if name.startswith("output.")]
    with torch.no_grad():
        outputs = module.train()(tensors["input"])
        (finest,) = module.eval()(tensors["input"])
    assert len(outputs) == len(expected) == 2
    for ours, right in zip(outputs, expected, strict=True):
        assert torch.allclose(ours, right, atol=1e-5)
    assert torch.allclose(finest, expected[0], atol=1e-5)
