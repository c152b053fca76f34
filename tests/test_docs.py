"""What the pages say is so: every command is told of, every link leads somewhere, every example parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

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


def test_the_plugin_of_the_page_is_a_part(tmp_path: Path) -> None:
    import torch

    from autoseg import parts

    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    code = re.search(r"```python\n(# my_loss\.py\n.*?)```", page, re.DOTALL)
    assert code is not None
    file = tmp_path / "my_loss.py"
    file.write_text(code[1])
    parts.load_plugin(file)
    loss = parts.LOSSES.build("smooth_ce", first=1)
    assert 0 < float(loss(torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8))) < 10
