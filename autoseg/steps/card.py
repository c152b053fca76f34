"""A model's card: what people ask of it, written from its records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from autoseg.records import Configuration, Member, PackedModel, Seen, Span

KINDS = {
    "ct": "CT, Hounsfield units", "mr": "MR", "us": "ultrasound", "pet": "PET", "rgb": "colour",
    "reflectance": "reflectance", "db": "radar backscatter, dB", "categorical": "classes", "angle": "directions",
    "other": "other",
}  # fmt: skip


def card(model: PackedModel) -> str:
    """The card as Markdown."""
    sections = {
        f"# {_plain(model.task)}": _head(model),
        "## What it segments": _classes(model),
        "## Which images it wants": _images(model),
        "## How it was trained": _training(model),
        "## How well it did": _validation(model),
        "## Use and limits": _limits(model),
        "## How to use it": _usage(model),
        "## What it is": _identity(model),
    }
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in sections.items()) + "\n"


def _head(model: PackedModel) -> Iterator[str]:
    titles = ", ".join(f"`{title}`" for title in model.configurations)
    what = "the average of " + titles if len(model.configurations) > 1 else titles
    yield f"A segmentation model ({what}) of the task {_plain(model.task)}, plan {_plain(model.plan)}, made by autoseg"
    yield f"{model.version} on {model.created}. This page was written from the model's own records."


def _classes(model: PackedModel) -> Iterator[str]:
    question = model.question
    yield from _table(("class", "value in a label"), ((name, question.labels[name]) for name in question.classes))
    if question.regions:
        yield ""
        yield "It answers regions, which may overlap; a voxel has the value of the last of them that it lies in:"
        yield ""
        rows = zip(question.regions.items(), question.written, strict=True)
        yield from _table(
            ("region", "values", "written as"), ((name, ", ".join(map(str, has)), as_) for (name, has), as_ in rows)
        )


def _images(model: PackedModel) -> Iterator[str]:
    channels, seen = model.question.channels, model.seen
    yield f"Images of {len(channels)} channel{'s' if len(channels) > 1 else ''}, in this order:"
    yield ""
    known = seen.channels if seen else (None,) * len(channels)
    rows = []
    for number, (channel, one) in enumerate(zip(channels, known, strict=True)):
        low, high = (_span(one.low), _span(one.high)) if one else ("–", "–")
        rows.append((number, channel.name, KINDS[channel.kind], low, high))
    yield from _table(("", "channel", "kind", "0.5th percentile in training", "99.5th percentile in training"), rows)
    yield ""
    yield _spacing(seen)


def _spacing(seen: Seen | None) -> str:
    if seen is None:
        return "What the training images were like is not recorded."
    many = f"{seen.cases} training image{'s' if seen.cases > 1 else ''}"
    if seen.unit == "pixels":
        return f"It was trained on {many} that say nothing of the size of a pixel."
    named = zip("zyx"[-len(seen.spacing) :], seen.spacing, strict=True)
    axes = ", ".join(f"{axis} {_span(span)}" for axis, span in named)
    turned = f", files oriented {', '.join(seen.orientations)}" if seen.orientations else ""
    return f"It was trained on {many} with a spacing in {seen.unit} (least to most) along {axes}{turned}."


def _training(model: PackedModel) -> Iterator[str]:
    titles = list(dict.fromkeys(member.configuration for member in model.members))
    rows = []
    for title in titles:
        members = model.members_of(title)
        settings, network = members[0].settings, members[0].settings.network
        rows.append((
            title, ", ".join(map(_fold, members)), ", ".join(dict.fromkeys(f"{one.steps:,}" for one in members)),
            f"{network.architecture.text}, {len(network.features)} stages, {network.features[0]} to "
            f"{max(network.features)} features", " × ".join(map(str, settings.patch)), _wanted(settings),
            settings.train.loss, ", ".join(dict.fromkeys(one.precision for one in members)),
        ))  # fmt: skip
    yield from _table(("configuration", "folds", "steps", "network", "patch", "spacing", "loss", "precision"), rows)
    if done := model.cleaning.texts:
        yield ""
        yield f"Its labels are postprocessed: {', '.join(f'`{_plain(text)}`' for text in done)}."
    for title in titles:
        if before := model.members_of(title)[0].settings.previous:
            yield ""
            yield f"`{_plain(title)}` is given the label that `{_plain(before)}` predicts first."
    if plugins := sorted({name for member in model.members for name in member.plugins}):
        yield ""
        yield f"It needs plug-ins that are not in it: {', '.join(map(_plain, plugins))}."


def _fold(member: Member) -> str:
    return f"{member.fold} (seed {member.seed})" if member.seed else str(member.fold)


def _wanted(settings: Configuration) -> str:
    return " × ".join(f"{edge:.4g}" for edge in settings.spacing)


def _validation(model: PackedModel) -> Iterator[str]:
    if not model.validation:
        yield "No cases were held out, or none has been scored: how good it is, nobody has measured."
        return
    yield "Dice over the cases that were held out, each predicted by the networks that had not been trained on it; the"
    yield "model averages more networks than each of them had. The cases are of the training images' own source."
    yield ""
    rows = [
        (title, name, *(_number(n) for n in (one.dice, one.iou, one.precision, one.recall)), one.cases)
        for title, classes in model.validation.items()
        for name, one in classes.items()
    ]
    yield from _table(("configuration", "class", "Dice", "IoU", "precision", "recall", "cases"), rows)


def _limits(model: PackedModel) -> Iterator[str]:
    yield "It is meant for images like those above: the same channels in the same order, similar spacing, similar"
    yield "subjects or scenes, taken in a similar way. On others it still answers, and may be wrong without a sign;"
    yield "autoseg says where spacing or values lie far from the training images, but sees no other difference."
    yield "The figures say nothing of other sources. Whoever uses it should measure it on labelled images of their own"
    yield "first. It is no medical device, and no decision should rest on its labels unseen."
    if any(member.fold == "all" for member in model.members):
        yield "A network of fold `all` was trained on every case: none of the figures is of it."


def _usage(model: PackedModel) -> Iterator[str]:
    flat = model.seen.flat if model.seen else False
    axes, spacing = ("(y, x)", "(0.5, 0.5)") if flat else ("(z, y, x)", "(1.0, 1.0, 1.0)")
    yield "```bash"
    yield "autoseg predict -m MODEL -i IMAGES -o LABELS"
    yield "```"
    yield ""
    yield "```python"
    yield "import autoseg"
    yield ""
    yield 'model = autoseg.load_model("MODEL")'
    yield f"label = model.predict(array, spacing={spacing})  # array: channels, then {axes}"
    yield "```"
    if not flat:
        yield ""
        yield "Volumes lie in memory with x from left to right, y from back to front and z from below upwards."


def _identity(model: PackedModel) -> Iterator[str]:
    facts = {"autoseg": model.version, "made": model.created, "plan": model.decisions, "fingerprint": model.measured}
    yield from _table(("", ""), facts.items())
    yield ""
    yield from _table(("file", "SHA-256"), ((member.weights, member.sha256) for member in model.members))
    yield ""
    yield "`SHA256SUMS` has the hashes of all files; a changed byte is refused when the model is opened."


def _span(span: Span | None) -> str:
    if span is None:
        return "–"
    least, most = f"{span.least:.4g}", f"{span.most:.4g}"
    return least if least == most else f"{least} to {most}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _table(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_plain(str(cell)) for cell in row) + " |"


def _plain(text: str) -> str:
    """Text that stays one line and one cell."""
    return "".join(c if c.isprintable() else " " for c in text).replace("|", "\\|")
