"""The local page: what a browser is given, and what it is not."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import BadData, BadUsage
from autoseg.pipeline.out_of_fold import postprocessed
from autoseg.pipeline.viewing import Server, Viewer, server
from autoseg.store import Home
from tests.pipeline.conftest import PLAN, TASK
from tests.pipeline.test_scoring import save

pytestmark = pytest.mark.xdist_group("crossed")  # one worker trains what all of these look at


@pytest.fixture(scope="module")
def viewer(crossed: Path) -> Viewer:
    home = Home(crossed)
    return Viewer(home, home.plan(TASK, PLAN))


@pytest.fixture
def port(viewer: Viewer) -> Iterator[Server]:
    with server(viewer, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(running: Server, path: str, host: str = "", secret: str | None = None, **more: str) -> tuple[int, bytes]:
    port, path = running.server_port, f"/{running.secret if secret is None else secret}{path}"
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}", **more})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_cases_are_listed_the_worst_first(viewer: Viewer) -> None:
    page = viewer.page().decode()
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    dice = [one["dice"] for one in data["cases"]]
    assert (
        len(dice) == 10
        and dice == sorted(dice)
        and all(one["layers"] == ["reference", "prediction"] for one in data["cases"])
    )
    assert [key["name"] for key in data["keys"]] == ["ball"] and not data["flat"]


def test_volumes_and_labels_are_those_of_the_case(viewer: Viewer, crossed: Path) -> None:
    name = viewer.cases[3].name
    for part, sub in (("image0.nii.gz", "imagesTr"), ("reference.nii.gz", "labelsTr")):
        kind, content = viewer.part(3, part)
        made = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
        there = nibabel.load(crossed / "datasets" / TASK / sub / f"{name}.nii.gz")
        np.testing.assert_allclose(np.asarray(made.dataobj), np.asarray(there.dataobj), rtol=1e-6)
        assert kind == "application/gzip" and made.header.get_zooms() == there.header.get_zooms()
    choice = Home(crossed).choice(TASK, PLAN)
    assert choice is not None and viewer.cases[3].prediction is not None
    prediction = nibabel.Nifti1Image.from_bytes(gzip.decompress(viewer.part(3, "prediction.nii.gz")[1]))
    there = np.asarray(nibabel.load(viewer.cases[3].prediction).dataobj).transpose(2, 1, 0)
    wanted = postprocessed(
        there, viewer.cases[3].prediction, viewer.question, choice.cleaning.taken, prediction.header.get_zooms()[::-1]
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(prediction.dataobj).transpose(2, 1, 0), wanted)


def test_the_server_gives_the_page_its_scripts_and_the_cases(port: Server) -> None:
    assert ask(port, "/")[0] == 200
    status, script = ask(port, "/static/niivue.umd.js")
    assert status == 200 and len(script) > 1_000_000
    assert ask(port, "/case/0/image0.nii.gz")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/case/10/image0.nii.gz", "/case/-1/image0.nii.gz", "/case/0/image1.nii.gz", "/case/0/../../dataset.json", "/x",
     "/static/../view.html", "/static/..%2f..%2fparts.py", "/case/0/label.nii.gz", "/case/0/image0", "//etc/passwd",
     "/case/0/image0.png"],
)  # fmt: skip
def test_nothing_else_is_given(port: Server, path: str) -> None:
    assert ask(port, path)[0] == 404


def test_a_page_of_another_site_is_refused(port: Server) -> None:
    assert ask(port, "/", "evil.example:80")[0] == 403
    assert ask(port, "/", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask(port, "/", f"localhost:{port.server_port}", **{"Sec-Fetch-Site": "same-origin"})[0] == 200


def test_who_does_not_know_the_address_is_given_nothing(port: Server) -> None:
    assert ask(port, "/", secret="")[0] == ask(port, "/", secret="guess")[0] == 404
    assert ask(port, "/case/0/image0.nii.gz", secret="guess")[0] == 404


def test_a_port_that_is_taken_is_told(viewer: Viewer, port: Server) -> None:
    with pytest.raises(BadUsage, match="take another one"):
        server(viewer, port.server_port)


def test_a_case_that_cannot_be_read_is_told_and_the_others_are_shown(copy: Path) -> None:
    home = Home(copy)
    found = Viewer(home, home.plan(TASK, PLAN))
    (copy / "datasets" / TASK / "imagesTr" / f"{found.cases[0].name}.nii.gz").write_bytes(b"no image")
    with server(found, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        status, why = ask(running, "/case/0/image0.nii.gz")
        assert status == 500 and b"cannot be read as NIfTI" in why
        assert ask(running, "/case/1/image0.nii.gz")[0] == 200
        running.shutdown()
        thread.join()


def test_other_images_and_predictions(copy: Path, tmp_path: Path) -> None:
    home, there = Home(copy), copy / "datasets" / TASK
    images, predictions = tmp_path / "images", tmp_path / "predictions"
    images.mkdir()
    predictions.mkdir()
    for number, name in enumerate("abc"):
        shutil.copy(there / "imagesTr" / f"ball_{number:02d}.nii.gz", images / f"{name}.nii.gz")
    shutil.copy(there / "labelsTr" / "ball_00.nii.gz", predictions / "a.nii.gz")
    save(predictions / "b.nii.gz", 1)
    found = Viewer(home, home.plan(TASK, PLAN), images, predictions)
    assert [(one.name, one.prediction is not None, one.dice) for one in found.cases] == [
        ("a", True, None), ("b", True, None), ("c", False, None)
    ]  # fmt: skip
    made, label = (
        nibabel.Nifti1Image.from_bytes(gzip.decompress(found.part(0, f"{part}.nii.gz")[1])).get_fdata()
        for part in ("image0", "prediction")
    )  # fmt: skip
    np.testing.assert_array_equal(label, nibabel.load(predictions / "a.nii.gz").get_fdata())
    np.testing.assert_allclose(made, nibabel.load(images / "a.nii.gz").get_fdata(), rtol=1e-6)
    with pytest.raises(BadData, match=r"b\.nii\.gz: does not lie on its image"):
        found.part(1, "prediction.nii.gz")
    alone = Viewer(home, home.plan(TASK, PLAN), images / "a.nii.gz", predictions / "a.nii.gz")
    assert [(one.name, one.prediction) for one in alone.cases] == [("a", predictions / "a.nii.gz")]
    shutil.copy(predictions / "a.nii.gz", predictions / "other.nii.gz")
    alone = Viewer(home, home.plan(TASK, PLAN), images / "a.nii.gz", predictions / "other.nii.gz")
    assert alone.cases[0].prediction == predictions / "other.nii.gz"
    shutil.copy(predictions / "a.nii.gz", predictions / "a.nii")
    assert Viewer(home, home.plan(TASK, PLAN), images, predictions).said == [
        "a is not shown: a.nii and a.nii.gz are two labels of one case"
    ]
    with pytest.raises(BadUsage, match=r"none of the cases; a\.nii and a\.nii\.gz"):
        Viewer(home, home.plan(TASK, PLAN), None, predictions)
