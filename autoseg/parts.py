"""Tables of named parts: where a name that a plan holds becomes code."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from autoseg.errors import AutosegError, BadPlan, nearest
from autoseg.records import Part


class Table:
    """Named factories of one kind of part.

    A factory is called as `factory(**context, **options)`: of the context, which every part of the kind is
    given (see `contract`), it takes what it has parameters for; the options are what the plan says. Built-in
    parts are named as literals `name -> "module:object"` and imported when first used, so that this module
    imports nothing above it.
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
        """Decorator for a plug-in's factory. Names are never replaced: a plan must keep its meaning.

        Raises: BadPlan for a name that exists, or that no plan could spell.
        """
        if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
            raise BadPlan(f"{name!r} cannot name a part", expected='letters, digits and _, as in add("my_part")')

        def register(factory: Callable[..., Any]) -> Callable[..., Any]:
            inspect.signature(factory)  # raises for what has none: it could not be asked for its options
            if name in self:
                raise BadPlan(f"{self.kind} {name!r} exists already", remedy="give the part another name")
            self._added[name] = factory
            return factory

        return register

    @property
    def added(self) -> dict[str, Callable[..., Any]]:
        """The factories of plug-ins."""
        return dict(self._added)

    def take_back(self, name: str) -> None:
        """Forgets what a plug-in has added."""
        del self._added[name]

    def get(self, name: str) -> Callable[..., Any]:
        """The factory of that name. Raises: BadPlan that lists the known ones."""
        if name in self._added:
            return self._added[name]
        if name not in self._builtin:
            known = ", ".join(self)
            raise BadPlan(
                f"unknown {self.kind} {name!r}{nearest(name, self)}",
                expected=f"one of {known}",
                remedy="a part of your own is loaded with --plugin FILE.py, or from an installed package",
            )
        module, _, attribute = self._builtin[name].partition(":")
        # a literal of the tables in this file, never a name from a file
        factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return factory

    def build(self, part: Part | str, *, where: str = "", **context: Any) -> Any:
        """The part, built. Raises: BadPlan for an unknown name, an unknown option or a refused value."""
        part = Part(name=part) if isinstance(part, str) else part
        factory = self.get(part.name)
        signature = inspect.signature(factory)
        options = [name for name in signature.parameters if name not in context]
        if unknown := [name for name in part.options if name not in options]:
            raise BadPlan(
                f"{self.kind} {part.name!r} has no option {unknown[0]!r}{nearest(unknown[0], options)}",
                where=where,
                expected=f"one of {', '.join(options)}" if options else "no options",
            )
        _require_types(factory, part, f"{self.kind} {part.name!r}", where)
        given = {name: value for name, value in context.items() if _takes(signature, name)}
        try:
            return factory(**given, **part.options)
        except AutosegError:
            raise
        except Exception as problem:  # whatever a part raises, a user's own above all
            said = str(problem) if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
            raise BadPlan(f"{self.kind} {part.name!r}: {said}", where=where) from problem


def _require_types(factory: Callable[..., Any], part: Part, who: str, where: str) -> None:
    """Raises: BadPlan for an option whose value is not what the factory's annotation says."""
    signature = inspect.signature(factory)
    constructor: Any = getattr(factory, "__init__") if isinstance(factory, type) else factory  # noqa: B009
    try:
        hints = get_type_hints(constructor)
    except (NameError, TypeError):  # a user's annotations are the user's
        return
    for name, value in part.options.items():
        if name in hints:
            try:
                TypeAdapter(hints[name]).validate_python(value, strict=True)
            except (ValidationError, PydanticUserError):
                words = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
                text = f"one of {', '.join(words)}" if words else str(signature.parameters[name].annotation)
                raise BadPlan(f"{who}: {name} is {json.dumps(value)}", where=where, expected=text) from None


def _takes(signature: inspect.Signature, name: str) -> bool:
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # a Module without a constructor of its own says so, and takes none
        return name in signature.parameters
    return inspect.Parameter.VAR_KEYWORD in kinds or name in signature.parameters


READERS = Table(
    "reader",
    "() -> autoseg.readers.Reader: reads files into an Image, writes a label onto an image's grid",
    {
        "nifti": "autoseg.readers.nifti:Nifti",
        "itk": "autoseg.readers.itk:Itk",
        "dicom": "autoseg.readers.dicom:Dicom",
        "raster": "autoseg.readers.raster:Raster",
    },
)
NORMALISERS = Table(
    "normaliser",
    "(intensity: Intensity, **options) -> (channel (z, y, x) float32, inside: bool (z, y, x)) -> float32 (z, y, x), "
    "or (K, z, y, x) where the attribute `outputs` is K; resampled as `resample`, a Part, says where it has one; given "
    "images in parts where it is `local`, or has `moments` and `by`",
    {
        "zscore": "autoseg.arrays.normalisers:ZScore",
        "ct": "autoseg.arrays.normalisers:ClipScale",
        "clip": "autoseg.arrays.normalisers:ClipScale",
        "range": "autoseg.arrays.normalisers:Range",
        "onehot": "autoseg.arrays.normalisers:OneHot",
        "angle": "autoseg.arrays.normalisers:Angle",
        "none": "autoseg.arrays.normalisers:Keep",
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
    "(network: Network, channels, classes, patch, **options) -> Module: (B, channels, *patch) -> "
    "[(B, classes, *patch), coarser ones ...] in training, finest first; in evaluation the first alone",
    {
        "unet": "autoseg.nets.unet:UNet",
        "resenc": "autoseg.nets.unet:ResEnc",
        "unetpp": "autoseg.nets.unetpp:UNetPP",
        "deeplabv3p": "autoseg.nets.deeplab:DeepLabV3Plus",
        "hrnet": "autoseg.nets.hrnet:HRNet",
        "swin_unet": "autoseg.nets.transformers:SwinUNet",
        "vit_unet": "autoseg.nets.transformers:ViTUNet",
        "ggnet": "autoseg.nets.ggnet:GGNet",
    },
)
BLOCKS = Table(
    "block",
    "(dims, channels_in, channels_out, kernel, stride, norm, **options) -> Module: (B, in, *S) -> "
    "(B, out, *ceil(S / stride))",
    {
        "plain": "autoseg.nets.blocks.plain:Plain",
        "separable": "autoseg.nets.blocks.plain:Separable",
        "dilated": "autoseg.nets.blocks.plain:Dilated",
        "repvgg": "autoseg.nets.blocks.repvgg:RepVGG",
        "residual": "autoseg.nets.blocks.residual:Residual",
        "preact": "autoseg.nets.blocks.residual:PreAct",
        "bottleneck": "autoseg.nets.blocks.residual:Bottleneck",
        "resnext": "autoseg.nets.blocks.residual:ResNeXt",
        "resnest": "autoseg.nets.blocks.resnest:ResNeSt",
        "convnext": "autoseg.nets.blocks.mixers:ConvNeXt",
        "poolformer": "autoseg.nets.blocks.mixers:PoolFormer",
        "deformable": "autoseg.nets.blocks.deformable:Deformable",
    },
)
INSERTS = Table(
    "insert",
    "(dims, channels, size, norm, encoder, **options) -> Module: (B, channels, *size) -> same; one that takes "
    "`encoder` ((channels, size) of every encoder stage) is called with their features as well",
    {
        "se": "autoseg.nets.inserts.gates:SE",
        "eca": "autoseg.nets.inserts.gates:ECA",
        "scse": "autoseg.nets.inserts.gates:SCSE",
        "cbam": "autoseg.nets.inserts.gates:CBAM",
        "coord": "autoseg.nets.inserts.coord:Coord",
        "polarized": "autoseg.nets.inserts.polarized:Polarized",
        "polarized_seq": "autoseg.nets.inserts.polarized:PolarizedSeq",
        "self_attention": "autoseg.nets.inserts.attention:SelfAttention",
        "window_attention": "autoseg.nets.inserts.window:WindowAttention",
        "acmix": "autoseg.nets.inserts.acmix:ACmix",
        "global_guidance": "autoseg.nets.inserts.guidance:GlobalGuidance",
        "scconv": "autoseg.nets.inserts.scconv:SCConv",
        "sppf": "autoseg.nets.inserts.context:SPPF",
        "aspp": "autoseg.nets.inserts.context:ASPP",
        "rater": "autoseg.nets.inserts.rater:Rater",
    },
)
JOINS = Table(
    "fusion",
    "(dims, channels, size, norm, **options) -> Module with `channels_out`: skip and decoder feature, both "
    "(B, channels, *size) -> (B, channels_out, *size)",
    {
        "concat": "autoseg.nets.joins:Concat",
        "attention_gate": "autoseg.nets.joins:AttentionGate",
        "cga_fusion": "autoseg.nets.joins:CGAFusion",
    },
)
NORMS = Table(
    "norm",
    "(dims, channels, **options) -> Module: (B, C, *S) -> same",
    {
        "instance": "autoseg.nets.layers:Instance",
        "batch": "autoseg.nets.layers:batch",
        "group": "autoseg.nets.layers:group",
        "layer": "autoseg.nets.layers:Layer",
    },
)
DOWNSAMPLERS = Table(
    "downsampling",
    "(dims, channels, stride, **options) -> Module: (B, C, *S) -> (B, C, *ceil(S / stride)); None leaves it to the "
    "stage's first block",
    {
        "strided": "autoseg.nets.layers:strided",
        "max_pool": "autoseg.nets.layers:max_pool",
        "mean_pool": "autoseg.nets.layers:mean_pool",
    },
)
UPSAMPLERS = Table(
    "upsampling",
    "(dims, channels_in, channels_out, stride, **options) -> Module: (B, in, *S) -> (B, out, *(S * stride))",
    {
        "transposed": "autoseg.nets.layers:transposed",
        "linear": "autoseg.nets.layers:Linear",
        "duc": "autoseg.nets.layers:Dense",
    },
)
LOSSES = Table(
    "loss",
    "(first, weights, **options) -> (logits (B, K, *S) float32, target) -> scalar; the target is (B, *S) class "
    "indices, or (B, K, *S) zeros and ones where regions overlap; 255 is ignored",
    {
        "ce": "autoseg.losses.voxelwise:cross_entropy",
        "wce": "autoseg.losses.voxelwise:weighted_cross_entropy",
        "bce": "autoseg.losses.voxelwise:binary_cross_entropy",
        "focal": "autoseg.losses.voxelwise:focal",
        "topk": "autoseg.losses.voxelwise:top_k",
        "dice": "autoseg.losses.overlap:soft_dice",
        "tversky": "autoseg.losses.overlap:tversky",
        "focal_tversky": "autoseg.losses.overlap:focal_tversky",
        "boundary": "autoseg.losses.edges:boundary",
    },
)
AUGMENTATIONS = Table(
    "augmentation",
    "(dims, **options) -> Augmentation: draw(rng, ...) -> parameters, then act on a batch",
    {
        "affine": "autoseg.augment.spatial:Affine",
        "turns": "autoseg.augment.spatial:Turns",
        "mirror": "autoseg.augment.spatial:Mirror",
        "elastic": "autoseg.augment.elastic:Elastic",
        "noise": "autoseg.augment.intensity:Noise",
        "blur": "autoseg.augment.intensity:Blur",
        "brightness": "autoseg.augment.intensity:Brightness",
        "contrast": "autoseg.augment.intensity:Contrast",
        "low_resolution": "autoseg.augment.intensity:LowResolution",
        "gamma": "autoseg.augment.intensity:Gamma",
        "band_jitter": "autoseg.augment.intensity:BandJitter",
        "cutout": "autoseg.augment.erasing:Cutout",
        "channel_dropout": "autoseg.augment.erasing:ChannelDropout",
        "morphology": "autoseg.augment.earlier:Morphology",
        "forget": "autoseg.augment.earlier:Forget",
        "copy_paste": "autoseg.augment.pasting:CopyPaste",
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
    {
        "poly": "autoseg.steps.optimise:poly",
        "cosine": "autoseg.steps.optimise:cosine",
        "one_cycle": "autoseg.steps.optimise:one_cycle",
        "constant": "autoseg.steps.optimise:constant",
    },
)
SAMPLINGS = Table(
    "sampling",
    "(present: per case the indices of its classes, **options) -> Sampling: weights(losses) -> how often each case is "
    "drawn",
    {
        "uniform": "autoseg.steps.sampling:Uniform",
        "balanced": "autoseg.steps.sampling:Balanced",
        "hard": "autoseg.steps.sampling:Hard",
    },
)
MEASURES = Table(
    "measure",
    "(voxel, **options) -> autoseg.arrays.pairs.Measure: of a Pair of masks, a float or None",
    {
        "hd95": "autoseg.arrays.borders:hausdorff_95",
        "hausdorff": "autoseg.arrays.borders:hausdorff",
        "assd": "autoseg.arrays.borders:surface_distance",
        "nsd": "autoseg.arrays.borders:normalised_surface_dice",
        "surface_dice": "autoseg.arrays.borders:surface_dice",
        "boundary_iou": "autoseg.arrays.borders:boundary_iou",
        "cldice": "autoseg.arrays.borders:centreline_dice",
        "volume_error": "autoseg.arrays.matching:volume_error",
        "object_precision": "autoseg.arrays.matching:object_precision",
        "object_recall": "autoseg.arrays.matching:object_recall",
        "object_f1": "autoseg.arrays.matching:object_f1",
        "lesion_dice": "autoseg.arrays.matching:lesion_dice",
        "lesion_precision": "autoseg.arrays.matching:lesion_precision",
        "lesion_recall": "autoseg.arrays.matching:lesion_recall",
        "lesion_f1": "autoseg.arrays.matching:lesion_f1",
        "patch_f1": "autoseg.arrays.matching:patch_f1",
    },
)
POSTPROCESSORS = Table(
    "postprocessing",
    "(classes: name -> index, **options) -> (labels uint8 (*S) of class indices, spacing) -> labels",
    {
        "keep_largest": "autoseg.arrays.cleaning:keep_largest",
        "remove_small": "autoseg.arrays.cleaning:remove_small",
        "fill_holes": "autoseg.arrays.cleaning:fill_holes",
    },
)
TABLES = {
    "readers": READERS,
    "normalisers": NORMALISERS,
    "resamplers": RESAMPLERS,
    "architectures": NETWORKS,
    "blocks": BLOCKS,
    "inserts": INSERTS,
    "fusions": JOINS,
    "norms": NORMS,
    "downsampling": DOWNSAMPLERS,
    "upsampling": UPSAMPLERS,
    "losses": LOSSES,
    "augmentations": AUGMENTATIONS,
    "optimisers": OPTIMISERS,
    "schedules": SCHEDULES,
    "samplings": SAMPLINGS,
    "measures": MEASURES,
    "postprocessing": POSTPROCESSORS,
}
