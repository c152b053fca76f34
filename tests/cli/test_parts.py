"""`autoseg parts`: what a user sees of the list of parts and of one, and of plug-ins that are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from autoseg.cli import main

PLUGIN = '''
from autoseg.parts import SCHEDULES

@SCHEDULES.add("halved")
def halved(steps: int, by: float = 2.0):
    """One over `by` [/b] at every step."""
    return lambda step: 1 / by
'''
Install = Callable[..., Path]


def run(*words: str, columns: int = 0, **ends: int) -> Result:
    """The command's answer; as a terminal of that width shows it, where one is given."""
    env = {"COLUMNS": str(columns), "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb"} if columns else {}
    result = CliRunner().invoke(main, words, env=env, catch_exceptions=False)
    assert result.exit_code == ends.get("ends", 0), result.output
    return result


def test_the_list_fits_a_terminal_and_names_every_part_under_its_kind() -> None:
    rows = json.loads(run("parts", "--json").stdout)
    for columns in (80, 100):
        lines = run("parts", columns=columns).stdout.splitlines()
        assert max(map(len, lines)) <= columns
        kind, named = "", []
        for line in lines:
            if line[:1].isalpha():
                kind = line.strip()
            elif line[:2] == "  " and line[2:3].strip():
                named.append((kind, line.split()[0]))
        assert named == [(row["kind"], row["name"]) for row in rows]


def test_a_part_is_told_with_options_places_and_contract() -> None:
    said = run("parts", "scse", columns=80).stdout
    (row,) = json.loads(run("parts", "scse", "--json").stdout)
    assert said.startswith("scse, insert, built-in")
    lines = [line.split() for line in said.splitlines()]
    assert row["options"]
    for option in row["options"]:
        assert [option["name"], option["type"], json.dumps(option["default"])] in lines
    flat = " ".join(said.split())
    assert " ".join(row["doc"].split()) in flat and " ".join(row["contract"].split()) in flat
    assert "Stands at encoder, skip, decoder, bottleneck, head" in flat
    assert row["doc"].startswith(row["what"]) and "Roy 2018" in row["what"]


def test_a_kind_can_be_asked_for_alone() -> None:
    rows = json.loads(run("parts", "--kind", "schedule", "--json").stdout)
    assert {row["kind"] for row in rows} == {"schedule"} and "poly" in {row["name"] for row in rows}
    assert "did you mean schedule" in run("parts", "--kind", "shedule", ends=2).stderr


def test_an_unknown_name_names_the_nearest() -> None:
    told = run("parts", "halve", ends=2)
    assert "no part is called 'halve'" in told.stderr and told.stdout == ""
    assert "did you mean cbam" in run("parts", "cbamm", ends=2).stderr


def test_a_plugin_file_is_named_as_the_source(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    said = run("--plugin", str(file), "parts", "--kind", "schedule", columns=80).stdout
    assert "halved One over `by` [/b] at every step. by=2.0 from mine.py" in " ".join(said.split())


def test_an_installed_plugin_is_known_to_every_command(install: Install) -> None:
    install("my-schedules", {"my_schedules.py": PLUGIN}, "my_schedules")
    told = run("parts", "halved", "--json")
    assert "One over `by` [/b] at every step." in run("parts", "halved").stdout
    (row,) = json.loads(told.stdout)
    assert row["source"] == "my-schedules==1.2" and row["kind"] == "schedule"
    assert row["options"] == [{"name": "by", "type": "float", "default": 2.0}] and told.stderr == ""


def test_one_that_fails_is_one_line_on_stderr_and_the_command_goes_on(install: Install) -> None:
    install("my-schedules", {"my_schedules.py": PLUGIN + "import nothing_of_that_name\n"}, "my_schedules")
    told = run("parts", "poly")
    (line,) = told.stderr.splitlines()
    assert line.startswith("plug-in my-schedules==1.2: could not be loaded: ModuleNotFoundError")
    assert told.stdout.startswith("poly, schedule")
    assert run("parts", "halved", ends=2).stdout == ""


def test_help_loads_no_plugin(install: Install, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = install("marks", {"marks.py": f"open({str(mark)!r}, 'w')"}, "marks")
    for words, loads in ((["--help"], False), (["parts", "nifti"], True)):
        code = f"from autoseg.cli import main; main({words!r}, standalone_mode=False)"
        env = {"PYTHONPATH": str(folder), "PATH": "", "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env)
        assert mark.exists() == loads
