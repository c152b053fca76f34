"""The pages in a browser: no error, every picture drawn, slices scroll, the page prints. Skipped without Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from autoseg.pipeline.viewing import Viewer, server
from autoseg.store import Home
from tests.pipeline.conftest import PLAN, TASK
from tests.pipeline.test_scoring import save

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
    pytest.mark.xdist_group("crossed"),
]
LOOK = """<script>
addEventListener("load", () => {
  const slider = document.querySelector(".plane input"), picture = document.querySelector(".plane img");
  const before = picture.src, named = document.querySelector(".plane output").textContent;
  slider.value = slider.value === "0" ? 1 : 0;
  slider.dispatchEvent(new Event("input"));
  const switched = document.querySelector("[data-layer=prediction]");
  switched.click();
  setTimeout(() => document.body.dataset.found = JSON.stringify({
    scrolled: picture.src !== before && document.querySelector(".plane output").textContent !== named,
    switched: !document.body.classList.contains("no-prediction"),
    pictures: [...document.images].every(one => one.naturalWidth > 0),
    charts: [...document.querySelectorAll("figure svg")].every(one => one.getBoundingClientRect().height > 50),
    anchors: [...document.querySelectorAll("nav a")].every(one => document.querySelector(one.getAttribute("href"))),
    wide: document.documentElement.scrollWidth <= innerWidth,
    named: [...document.querySelectorAll("input, select, svg[role=img]")].every(one =>
      one.getAttribute("aria-label") || one.closest("label")),
  }), 3000);
});
</script></body>"""


def browse(address: str, *words: str) -> tuple[str, list[str]]:
    """The page after its scripts have run, and what it complained of."""
    assert CHROMIUM is not None
    run = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--enable-logging=stderr",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=20000", *words, address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return run.stdout, re.findall(r'CONSOLE.*?"(.*?)", source', run.stderr)


@pytest.mark.parametrize("size", ["1280,900", "1920,1080"])
def test_the_report_works(crossed: Path, tmp_path: Path, size: str) -> None:
    text = Home(crossed).report_file(TASK, PLAN).read_text("utf-8")
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", LOOK), "utf-8")
    dom, complaints = browse(page.as_uri(), "--dump-dom", f"--window-size={size}")
    assert complaints == []
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found
    assert set(json.loads(found[1].replace("&quot;", '"')).values()) == {True}, found[1]


def test_the_report_prints(crossed: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    browse(Home(crossed).report_file(TASK, PLAN).as_uri(), f"--print-to-pdf={target}")
    assert target.read_bytes().startswith(b"%PDF") and target.stat().st_size > 50_000


def looked_at(viewer: Viewer) -> tuple[str, list[str]]:
    with server(viewer, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            return browse(running.address, "--dump-dom")
        finally:
            running.shutdown()
            thread.join()


def test_the_viewer_shows_a_volume_with_its_labels(crossed: Path) -> None:
    home = Home(crossed)
    dom, complaints = looked_at(Viewer(home, home.plan(TASK, PLAN)))
    assert 'data-shown="2"' in dom, (complaints, re.findall(r"data-failed=.*?>", dom))
    assert dom.count("<li>") == 10


def test_the_viewer_shows_the_predictions_of_images_without_a_label(crossed: Path) -> None:
    home, task = Home(crossed), crossed / "datasets" / TASK
    images, labels = task / "imagesTr" / "ball_03.nii.gz", task / "labelsTr" / "ball_03.nii.gz"
    dom, complaints = looked_at(Viewer(home, home.plan(TASK, PLAN), images, labels))
    assert 'data-shown="2"' in dom, (complaints, re.findall(r"data-failed=.*?>", dom))
    assert re.search('<input[^>]* id="reference"[^>]*disabled', dom) and dom.count("<li>") == 1


def test_the_viewer_says_why_a_prediction_cannot_be_shown(crossed: Path, tmp_path: Path) -> None:
    home, image = Home(crossed), crossed / "datasets" / TASK / "imagesTr" / "ball_03.nii.gz"
    save(tmp_path / "ball_03.nii.gz", 1)
    dom, _ = looked_at(Viewer(home, home.plan(TASK, PLAN), image, tmp_path / "ball_03.nii.gz"))
    failed = re.search('data-failed="([^"]*)"', dom)
    assert failed and "does not lie on its image" in failed[1] and "data-shown" not in dom
