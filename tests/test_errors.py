"""What is said when nothing can go on: one line, the same in every process."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import errors
from autoseg.errors import AutosegError, BadData, BadInput, nearest

KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AutosegError)),
    key=lambda kind: kind.__name__,
)
texts = st.text(st.sampled_from("ab \n\t\r\x0b\u2028\u00a0:;'"), max_size=12)


@settings(deadline=None)
@given(texts, texts, texts, texts)
def test_every_error_is_one_line(what: str, where: str, expected: str, remedy: str) -> None:
    said = str(AutosegError(what, where=where, expected=expected, remedy=remedy))
    assert len(said.splitlines()) <= 1
    assert "  " not in said
    assert said == said.strip()


def test_the_line_tells_what_where_expected_and_remedy() -> None:
    told = BadData("2 channels", where="a.nii.gz", expected="1", remedy="leave one out")
    assert str(told) == "a.nii.gz: 2 channels; expected 1; leave one out"
    assert str(BadData("2 channels")) == "2 channels"
    assert str(BadData("2 channels", remedy="leave one out")) == "2 channels; leave one out"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_keep_kind_and_text_across_processes(kind: type[AutosegError]) -> None:
    error = kind("what", where="where", expected="expected", remedy="remedy")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_user_gave_exits_with_two(kind: type[AutosegError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, BadInput) else 1)


def test_nearest_names_what_looks_alike_and_nothing_else() -> None:
    assert nearest("spcing", ["spacing", "patch", "batch"]) == " (did you mean spacing?)"
    assert nearest("atch", iter(["patch", "batch", "spacing"])) == " (did you mean patch or batch?)"
    assert nearest("zzz", ["spacing", "patch"]) == ""
    assert nearest("a", []) == ""
    assert nearest("case1", [f"case{n}" for n in range(2, 9)]).count(" or ") == 2
