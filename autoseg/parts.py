"""The one place where a string becomes code: tables of named parts, and the loading of plug-ins."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoseg.errors import BadPlan, BadUsage, nearest
from autoseg.records import Part


class Table:
    """Named factories of one kind of part.

    A factory is called as `factory(**context, **options)`: the context is what every part of the kind is
    given (see `contract`), the options are what the plan says. Built-in parts are named as literals
    `name -> "module:object"` and imported when first used, so that this module imports nothing above it.
    """

    def __init__(self, kind: str, contract: str, builtin: dict[str, str]) -> None:
        self.kind, self.contract = kind, contract
        self._builtin = builtin
        self._added: dict[str, Callable[..., Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({**self._builtin, **self._added}))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._added

    def add(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator for a plug-in's factory. Names are never replaced: a plan must keep its meaning."""

        def register(factory: Callable[..., Any]) -> Callable[..., Any]:
            if name in self:
                raise BadPlan(f"{self.kind} {name!r} exists already", remedy="give the part another name")
            self._added[name] = factory
            return factory

        return register

    def get(self, name: str) -> Callable[..., Any]:
        """The factory of that name. Raises: BadPlan that lists the known ones."""
        if name in self._added:
            return self._added[name]
        if name not in self._builtin:
            known = ", ".join(self)
            raise BadPlan(
                f"unknown {self.kind} {name!r}{nearest(name, self)}",
                expected=f"one of {known}",
                remedy="a part of your own is loaded with --plugin FILE.py",
            )
        module, _, attribute = self._builtin[name].partition(":")
        factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return factory

    def build(self, part: Part | str, **context: Any) -> Any:
        """The part, built. Raises: BadPlan for an unknown name, an unknown option or a refused value."""
        part = Part(name=part) if isinstance(part, str) else part
        factory = self.get(part.name)
        signature = inspect.signature(factory)
        options = [name for name in signature.parameters if name not in context]
        if unknown := [name for name in part.options if name not in options]:
            raise BadPlan(
                f"{self.kind} {part.name!r} has no option {unknown[0]!r}{nearest(unknown[0], options)}",
                expected=f"one of {', '.join(options)}" if options else "no options",
            )
        try:
            return factory(**context, **part.options)
        except (TypeError, ValueError) as problem:
            raise BadPlan(f"{self.kind} {part.name!r}: {problem}") from problem


READERS = Table(
    "reader",
    "() -> autoseg.readers.Reader: reads files into an Image, writes a label onto an image's grid",
    {"nifti": "autoseg.readers.nifti:Nifti", "raster": "autoseg.readers.raster:Raster"},
)
NORMALISERS = Table(
    "normaliser",
    "(intensity: Intensity, **options) -> (channel (z, y, x) float32, inside: bool (z, y, x)) -> float32",
    {
        "zscore": "autoseg.arrays.intensity:ZScore",
        "ct": "autoseg.arrays.intensity:ClipScale",
        "range": "autoseg.arrays.intensity:Range",
        "none": "autoseg.arrays.intensity:Keep",
    },
)
RESAMPLERS = Table(
    "resampler",
    "(**options) -> (array (C, z, y, x) float32, shape (z, y, x), coarse axis or None) -> (C, *shape)",
    {
        "spline": "autoseg.arrays.resample:Spline",
        "linear": "autoseg.arrays.resample:Linear",
        "keep": "autoseg.arrays.resample:Keep",
    },
)
NETWORKS = Table(
    "architecture",
    "(network: Network, channels, classes, **options) -> Module: (B, channels, *S) -> [(B, classes, *S), "
    "coarser ones ...] in training, finest first",
    {"unet": "autoseg.nets.unet:UNet"},
)
BLOCKS = Table(
    "block",
    "(dims, channels_in, channels_out, kernel, stride, convs, norm, **options) -> Module: (B, in, *S) -> "
    "(B, out, *ceil(S / stride))",
    {"plain": "autoseg.nets.blocks:Plain"},
)
NORMS = Table(
    "norm",
    "(dims, channels, **options) -> Module: (B, C, *S) -> same",
    {"instance": "autoseg.nets.blocks:instance", "group": "autoseg.nets.blocks:group"},
)
LOSSES = Table(
    "loss",
    "(first, **options) -> (logits (B, K, *S) float32, target (B, *S) class indices, 255 ignored) -> scalar",
    {
        "ce": "autoseg.losses:cross_entropy",
        "dice": "autoseg.losses:soft_dice",
        "focal": "autoseg.losses:focal",
    },
)
AUGMENTATIONS = Table(
    "augmentation",
    "(dims, **options) -> Augmentation: draw(rng, ...) -> parameters, then act on a batch",
    {
        "affine": "autoseg.augment.spatial:Affine",
        "turns": "autoseg.augment.spatial:Turns",
        "mirror": "autoseg.augment.spatial:Mirror",
        "noise": "autoseg.augment.intensity:Noise",
        "blur": "autoseg.augment.intensity:Blur",
        "brightness": "autoseg.augment.intensity:Brightness",
        "contrast": "autoseg.augment.intensity:Contrast",
        "low_resolution": "autoseg.augment.intensity:LowResolution",
        "gamma": "autoseg.augment.intensity:Gamma",
    },
)
OPTIMISERS = Table(
    "optimiser",
    "(parameters, **options) -> torch.optim.Optimizer",
    {"sgd": "autoseg.steps.optimise:sgd", "adamw": "autoseg.steps.optimise:adamw"},
)
SCHEDULES = Table(
    "schedule",
    "(steps, **options) -> (step) -> factor of the learning rate, 0..1",
    {"poly": "autoseg.steps.optimise:poly", "constant": "autoseg.steps.optimise:constant"},
)
TABLES = {
    "readers": READERS,
    "normalisers": NORMALISERS,
    "resamplers": RESAMPLERS,
    "architectures": NETWORKS,
    "blocks": BLOCKS,
    "norms": NORMS,
    "losses": LOSSES,
    "augmentations": AUGMENTATIONS,
    "optimisers": OPTIMISERS,
    "schedules": SCHEDULES,
}


LOADED: list[Path] = []  # the plug-in files of this process, which other processes that work for it load too


def load_plugin(file: Path) -> tuple[str, str]:
    """Runs a user's plug-in file, which adds its parts to the tables; answers (file name, sha256).

    Only a file that the user names on the command line is ever run.
    """
    if not file.is_file():
        raise BadUsage(f"no file {file}", where="--plugin", expected="a Python file")
    content, kept = file.read_bytes(), sys.dont_write_bytecode
    name = f"autoseg_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadUsage(f"{file} is not a Python file", where="--plugin")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        sys.dont_write_bytecode = True  # a cached file could be run under the hash of a newer one
        spec.loader.exec_module(module)
    except Exception as problem:  # whatever a user's file raises
        raise BadUsage(
            f"{file} could not be loaded: {type(problem).__name__}: {problem}", where="--plugin"
        ) from problem
    finally:
        sys.dont_write_bytecode = kept
    LOADED.append(file.resolve())
    return file.name, hashlib.sha256(content).hexdigest()


def catalogue(name: str | None = None) -> list[dict[str, str]]:
    """One row (kind, name, options with defaults, first line of its docstring) per part, or those of one name."""
    rows = []
    for table in TABLES.values():
        for part in table:
            if name in (None, part):
                factory = table.get(part)
                said = (inspect.getdoc(factory) or "").split("\n\n")[0].replace("\n", " ")
                rows.append({"kind": table.kind, "name": part, "options": _options(factory), "what": said})
    if not rows:
        known = sorted({part for table in TABLES.values() for part in table})
        raise BadUsage(f"no part is called {name!r}{nearest(str(name), known)}", expected=f"one of {', '.join(known)}")
    return rows


def _options(factory: Callable[..., Any]) -> str:
    """The options: what has a default."""
    found = inspect.signature(factory).parameters.values()
    return ", ".join(f"{p.name}={p.default!r}" for p in found if p.default is not inspect.Parameter.empty)
