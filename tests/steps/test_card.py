"""The card says what the records say, and stays a page whatever names there are."""

from __future__ import annotations

import re

from autoseg.records import Channel, Means, Seen, SeenChannel, Span
from autoseg.steps.card import card
from tests.records.test_model import member, model
from tests.store.test_archive import QUESTION, settings

MEANS = Means(dice=0.87654, iou=0.5, precision=None, recall=0.25, specificity=None, accuracy=None, cases=7)
SPAN = Span(least=0.5, median=0.6, most=0.75)
SEEN = Seen(
    cases=12, flat=True, unit="m", spacing=(SPAN, Span(least=1, median=1, most=1)), channels=(SeenChannel(low=SPAN),)
)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_card_tells_what_the_model_is_and_wants_and_is_worth() -> None:
    made = model(member(0), member(1, fold="all", seed=3, steps=1500), validation={"2d": {"disc": MEANS}}, seen=SEEN)
    text, rows = card(made), cells(card(made))
    assert ["disc", "255"] in rows and ["background", "0"] in rows
    assert ["0", "grey", "other", "0.5 to 0.75", "–"] in rows
    assert "12 training images with a spacing in m (least to most) along y 0.5 to 0.75, x 1." in text
    assert ["2d", "disc", "0.8765", "0.5000", "–", "0.2500", "7"] in rows
    (trained,) = [row for row in rows if row[0] == "2d" and "unet" in row[3]]
    assert trained[1:3] == ["0, all (seed 3)", "1, 1,500"] and "8 × 8" in trained and "dice+ce" in trained
    assert all([one.weights, one.sha256] in rows for one in made.members)
    assert "autoseg predict -m" in text and "autoseg.load_model(" in text and "spacing=(0.5, 0.5)" in text
    assert "It is no medical device" in text and "fold `all` was trained on every case" in text


def test_what_is_not_known_is_said() -> None:
    text = card(model(member(0)))
    assert "nobody has measured" in text and "not recorded" in text and "fold `all`" not in text


def test_a_cascade_regions_and_plugins_are_told() -> None:
    asked = QUESTION.model_copy(update={"regions": {"whole": (255,)}, "written": (255,)})
    later = member(1, configuration="fine", settings=settings(previous="2d"), plugins={"mine.py": "a" * 64})
    text = card(model(member(0), later, configurations=("fine",), question=asked))
    assert "`fine` is given the label that `2d` predicts first" in text and "mine.py" in text
    assert ["whole", "255", "255"] in cells(text)


def test_names_cannot_break_the_page() -> None:
    name = "a | b\n# title\x1b[31m"
    fields = {"labels": {"background": 0, name: 255}, "channels": (Channel(name=name, kind="mr"),)}
    text = card(model(member(0), question=QUESTION.model_copy(update=fields)))
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1 and "\x1b" not in text and "a \\| b # title" in text
