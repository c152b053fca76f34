"""What the pages say is so: every command is told of, every link leads somewhere, every example parses."""

from __future__ import annotations

import json
import multiprocessing
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from autoseg import losses, parts
from autoseg.errors import BadData, BadPlan
from autoseg.nets import survey
from autoseg.nets.places import parse
from autoseg.plugins import LOADED, load_files, load_installed
from autoseg.readers import ending_of, reader_for
from autoseg.records import Network, Part
from autoseg.store.archive import staged
from tests.store.test_archive import fill, settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "datasets" / "README.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^( *)```bash\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^ *(```+).*?^ *\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""\]\(<?([^)\s>]+)|(?:src|href)="([^"]+)\"""")
END = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1", ")"}


def main() -> click.Group:
    from autoseg.cli import main as group

    assert isinstance(group, click.Group)
    return group


def commands(group: click.Group, before: str = "") -> Iterator[str]:
    """'plan', 'models list', ...: every command without the hidden ones."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        yield before + name
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")


def links(text: str) -> list[str]:
    """The relative targets of a page's links and pictures, outside of code."""
    found = (a or b for a, b in LINK.findall(FENCE.sub("", text)))
    return [link.split("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]


def examples(text: str) -> list[list[str]]:
    """The words after `autoseg` of every line that calls it, up to a pipe or a redirection."""
    lines = (line for _, block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines())
    calls = []
    for line in lines:
        if line.strip().startswith("autoseg "):
            words = shlex.split(line, comments=True)[1:]
            stop = next((i for i, word in enumerate(words) if word in END), len(words))
            calls.append(words[:stop])
    return calls


def try_out(command: click.Command, words: list[str], name: str = "autoseg") -> None:
    """Raises: click.UsageError where a command, an option, a choice or an argument does not exist."""
    context = click.Context(command, info_name=name)
    if words and words[0].isupper() and isinstance(command, click.Group):
        return
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    for parameter in command.params:
        value = values.get(parameter.name)
        placeholder = not isinstance(value, str) or value.isupper()
        if not placeholder and isinstance(parameter.type, click.Choice):
            parameter.type.convert(value, parameter, context)
    if isinstance(command, click.Group):
        if rest:
            name, below, rest = command.resolve_command(context, rest)
            assert below is not None
            try_out(below, rest, name or "")
    elif rest:
        raise click.UsageError(f"unexpected {rest}", context)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page.read_text("utf-8")) if not (page.parent / link).exists()] == []


def test_every_command_is_told_of() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    names = list(commands(main()))
    assert names
    assert [name for name in names if not re.search(rf"(autoseg (-\S+ )*|`){name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_examples_parse(page: Path) -> None:
    for words in examples(page.read_text("utf-8")):
        try:
            try_out(main(), words)
        except click.UsageError as problem:
            pytest.fail(f"autoseg {shlex.join(words)}: {problem.format_message()}")


# -- the tests themselves can fail -----------------------------------------------------------------------


@click.group()
@click.option("--home")
def toy(home: str) -> None: ...


@toy.command()
@click.argument("kind", type=click.Choice(["medical", "aerial"]))
@click.option("--budget")
@click.option("--json", is_flag=True)
def demo(kind: str, budget: str, json: bool) -> None: ...


@pytest.mark.parametrize(
    "line",
    [
        "demo medical",
        "--home /x demo aerial --budget 2h --json",
        "demo KIND",
        "COMMAND",
        "--home DIR",
        "--help",
    ],
)
def test_a_right_example_is_passed(line: str) -> None:
    try_out(toy, line.split())


@pytest.mark.parametrize(
    "line",
    ["dome medical", "demo marine", "demo medical --budgte 2h", "demo medical more", "--hom x demo aerial"],
)
def test_a_wrong_example_is_caught(line: str) -> None:
    with pytest.raises(click.UsageError):
        try_out(toy, line.split())


def test_examples_and_links_are_found() -> None:
    text = (
        "[a](b.md#c) [d](https://e.f) ![g](h.png)\n```bash\n# autoseg no\nautoseg demo \\\n  medical | less\n"
        "pip install autoseg\n```\n```\n[code](not-a-link)\nautoseg not bash\n```\n"
    )
    assert examples(text) == [["demo", "medical"]]
    assert links(text) == ["b.md", "h.png"]
    assert list(commands(toy)) == ["demo"]


# -- the examples of parts are parts ---------------------------------------------------------------------

EXTENDING = (ROOT / "docs" / "extending.md").read_text("utf-8")
WRITTEN = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", EXTENDING, re.DOTALL))


@pytest.fixture
def part(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of the part that the page's file of that name adds."""
    file = tmp_path / request.param
    file.write_text(WRITTEN[file.name])
    load_files([file])
    ((_, name),) = LOADED[-1].parts
    return name


def of(file: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("part", [file], indirect=True)


def small(dims: int, **fields: Any) -> Network:
    return Network.plain((8, 12), ((1,) * dims, (2,) * dims), **fields)


def trains(network: Network) -> survey.Survey:
    """What the network costs; every weight of it learns, and it answers in evaluation what it must."""
    patch = (8,) * network.dims
    found = survey.survey(network, 2, 3, patch)
    module, x = survey.build(network, 2, 3, patch), torch.rand(2, 2, *patch)
    for _ in range(2):  # what starts at zero keeps what stands before it from learning
        sum((logits**2).mean() for logits in module.train()(x)).backward()
        with torch.no_grad():
            for weight in module.parameters():
                weight -= 0.1 * weight.grad
    assert all(weight.grad.any() for weight in module.parameters())
    assert [tuple(logits.shape) for logits in module.eval()(x)] == [(2, 3, *patch)]
    return found


def test_every_kind_of_the_page_is_tried() -> None:
    tried = {f"my_{kind}.py" for kind in ("insert", "block", "fusion", "norm", "loss", "architecture", "augmentation")}
    assert set(WRITTEN) == tried | {"my_reader.py", "wrong_insert.py"}


@of("my_insert.py")
@pytest.mark.parametrize("dims", [2, 3])
def test_the_insert_of_the_page(part: str, dims: int) -> None:
    places = parts.INSERTS.get(part).places
    found = trains(small(dims, inserts=parse("+".join(f"{part}@{place}" for place in places))))
    assert [unit.place for unit in found.units if part in unit.inserts] == ["encoder", "bottleneck", "decoder"]
    insert = parts.INSERTS.build(part, dims=dims, channels=4)
    x = torch.rand(2, 4, *(3,) * dims)
    assert torch.equal(insert(x), x)
    with pytest.raises(BadPlan, match="does not stand at skip"):
        survey.survey(small(dims, inserts=parse(f"{part}@skip")), 1, 2, (8,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("part", "field"),
    [("my_block.py", "block"), ("my_norm.py", "norm"), ("my_architecture.py", "architecture")],
    indirect=["part"],
)
def test_the_block_the_norm_and_the_architecture_of_the_page(part: str, field: str, dims: int) -> None:
    fields = {field: Part(name=part)} | ({"decoder_block": Part(name=part)} if field == "block" else {})
    assert trains(small(dims, **fields)).parameters != survey.survey(small(dims), 2, 3, (8,) * dims).parameters


@of("my_fusion.py")
@pytest.mark.parametrize("dims", [2, 3])
def test_the_fusion_of_the_page(part: str, dims: int) -> None:
    found = trains(small(dims, inserts=parse(f"{part}@join")))
    assert found.parameters < survey.survey(small(dims), 2, 3, (8,) * dims).parameters  # it answers fewer channels


@of("my_loss.py")
def test_the_loss_of_the_page(part: str) -> None:
    loss = losses.build(f"0.5*{part}(smoothing=0.2)", first=1)
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4), dtype=torch.uint8)
    target[0, 0] = 255
    kept = target != 255
    p = logits.log_softmax(1).movedim(1, -1)[kept]
    right = p.gather(1, target[kept].long()[:, None])[:, 0]
    assert torch.allclose(loss(logits, target), -0.5 * (0.8 * right + 0.2 * p.mean(1)).mean())
    assert loss(logits, torch.full_like(target, 255)) == 0


@of("my_augmentation.py")
def test_the_augmentation_of_the_page(part: str) -> None:
    made = parts.AUGMENTATIONS.build(Part(name=part, options={"probability": 0.5}), dims=2)
    draws = [made.draw(np.random.default_rng(seed), 3) for seed in range(100)]
    assert draws == [made.draw(np.random.default_rng(seed), 3) for seed in range(100)]
    happened = [one for one in draws if one is not None]
    assert 25 < len(happened) < 75 and json.loads(json.dumps(happened)) == happened
    assert made.draw(np.random.default_rng(0), 1) is None
    images = torch.rand(len(happened), 3, 4, 5)
    before, changed = images.clone(), made.act(images, happened)
    assert torch.equal(images, before)
    for one, old, new in zip(happened, images, changed, strict=True):
        assert all(torch.equal(new[c], 0 * old[c] if c == one["channel"] else old[c]) for c in range(3))


@of("my_reader.py")
def test_the_reader_of_the_page(part: str, tmp_path: Path) -> None:
    reader = parts.READERS.build(part)
    assert (reader_for("a/b.NPY"), ending_of("b.npy"), reader_for("b.nii.gz")) == (part, ".npy", "nifti")
    one, three = np.random.default_rng(0).random((5, 4)), np.random.default_rng(1).random((3, 5, 4))
    for name, array in (("one", one), ("three", three)):
        np.save(tmp_path / f"{name}.npy", array)
    image = reader.read([tmp_path / "one.npy", tmp_path / "three.npy"])
    assert np.array_equal(image.array, np.concatenate([one[None], three])) and image.spacing == (1, 1)
    reader.write_label(tmp_path / "label.npy", label := (one > 0.5).astype(np.uint8), image)
    assert np.array_equal(reader.read_label(tmp_path / "label.npy").array, label[None])
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(BadData, match=r"bad\.npy: cannot be read"):
        reader.read_label(tmp_path / "bad.npy")


def test_a_task_of_the_readers_files_is_added_checked_and_scored(home: Path) -> None:
    (home / "my_reader.py").write_text(WRITTEN["my_reader.py"])
    rng = np.random.default_rng(0)
    for sub, limit in (("images", 256), ("labels", 2)):
        (home / sub).mkdir()
        for number in range(3):
            np.save(home / sub / f"a{number}.npy", rng.integers(limit, size=(16, 16), dtype=np.uint8))
    add = ("add", "Task05_Arrays", "--images", f"{home}/images", "--labels", f"{home}/labels/*.npy")
    check, score = ("check", "Task05"), ("evaluate", "-p", home / "labels", "-r", home / "labels", "-o", home / "out")
    for words in (add, check, score):
        for table in parts.TABLES.values():
            for name in table.added:
                table.take_back(name)
        named = [] if words is check else ["--plugin", home / "my_reader.py"]
        told = CliRunner().invoke(main(), [str(word) for word in ("--home", home, *named, *words)])
        assert told.exit_code == (2 if words is check else 0), told.output
        assert words is not check or ("npy" in told.stderr and "--plugin" in told.stderr)


def test_a_wrong_shape_is_told_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "wrong_insert.py").write_text(WRITTEN["wrong_insert.py"])
    load_files([tmp_path / "wrong_insert.py"])
    with pytest.raises(BadPlan) as problem:
        survey.survey(small(2, inserts=parse("combed@skip")), 1, 2, (16, 16))
    assert f"\nautoseg: {problem.value}\n" in EXTENDING


def test_the_package_of_the_page_is_a_plugin(install: Callable[..., Path]) -> None:
    tomllib = pytest.importorskip("tomllib")
    (text,) = re.findall(r"```toml\n(.*?)```", EXTENDING, re.DOTALL)
    project = tomllib.loads(text)["project"]
    files = {"my_blocks/blocks.py": WRITTEN["my_block.py"], "my_blocks/losses.py": WRITTEN["my_loss.py"]}
    modules = project["entry-points"]["autoseg.plugins"].values()
    install(project["name"], {"my_blocks/__init__.py": "", **files}, *modules, version=project["version"])
    load_installed(pytest.fail)
    assert [(plugin.name, {name for _, name in plugin.parts}) for plugin in LOADED] == [
        ("my-blocks==1.2", {"gated", "smooth_ce"})
    ]
    assert f"pip install {LOADED[0].name}`" in EXTENDING
    trains(small(2, block=Part(name="gated")))


# -- the model in memory ---------------------------------------------------------------------------------


def test_the_example_of_a_model_in_memory_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    ((name, text),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL)
    (tmp_path / name).write_text(text)
    network = Network.plain((2, 3), ((1, 1, 1), (2, 2, 2)))
    with staged(tmp_path / "hippocampus.autoseg") as folder:
        fill(folder, {"3d": 2}, settings(network=network, patch=(16, 16, 16), spacing=(1.0, 1.0, 1.0)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", lambda _: pytest.fail("starts a process"))
    runpy.run_path(str(tmp_path / name), run_name="anything")  # not as __main__
    assert "{'background': 0, 'disc': 255} ('grey',)" in capsys.readouterr().out
