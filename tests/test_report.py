"""The report: one page, whole in itself, that says what was found and how surely."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tables import classification_rows, make_run, rewrite, trial_rows

from headwater.errors import DataError
from headwater.metrics import Eer, Metric, MinDcf, det_curve
from headwater.results import plots
from headwater.results.report import draw, render

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects what a page refers to and the tags it leaves open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.references.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_report_is_one_whole_page_that_fetches_nothing(tmp_path: Path) -> None:
    page = Page(render(make_run(tmp_path / "run", classification_rows())))
    assert page.open == []
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.references) == 2
    assert all(reference.startswith("data:image/") for reference in page.references)


def test_the_headline_says_value_interval_and_chance_in_words(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", classification_rows(0.7))
    words = Page(render(folder)).words
    assert re.search(r"tera\.demo reaches accuracy [\d.]+ % \(95 % interval [\d.]+ to [\d.]+\) on test", words)
    assert "better than chance (25.00 %), which the interval excludes" in words
    assert "120 utterances of 12 speakers" in words


@pytest.mark.parametrize(
    ("right", "said"),
    [(0.25, "not shown to differ from guessing"), (0.02, "worse than chance"), (1.0, "Clopper-Pearson")],
)
def test_the_headline_does_not_oversell(tmp_path: Path, right: float, said: str) -> None:
    assert said in Page(render(make_run(tmp_path / "run", classification_rows(right)))).words


def test_an_error_rate_below_chance_is_better_than_chance(tmp_path: Path) -> None:
    words = Page(render(make_run(tmp_path / "run", trial_rows(), [Eer(), MinDcf("min_dcf", 0.05)]))).words
    assert "lower is better. That is better than chance (50.00 %)" in words
    assert "min_dcf" in words


def test_config_data_versions_notes_and_command_are_there(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a run", classification_rows(), notes=["mind the gap"])
    words = Page(render(folder)).words
    for part in (
        "steps: 60",
        "demo",
        "cd" * 32,
        "torch",
        "2.13",
        "mind the gap",
        "block 2",
        f"-m evaluate -e '{folder}'",
    ):
        assert part in words


def test_everything_that_a_run_names_is_escaped(tmp_path: Path) -> None:
    rows = [{**row, "label": HOSTILE if row["label"] == "east" else row["label"]} for row in classification_rows()]
    folder = make_run(
        tmp_path / "run", rows, upstream=HOSTILE, task=HOSTILE, notes=[HOSTILE], versions={HOSTILE: HOSTILE}
    )
    (folder / "config.yaml").write_text(f"name: {HOSTILE}</pre>")
    (folder / "plots").mkdir()
    (folder / "plots" / "<b onclick=1>.png").write_bytes(b"x")
    page = Page(render(folder))
    assert page.open == []
    assert page.handlers == []
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert page.words.count("onerror=alert(1)") >= 5


def test_several_tests_each_get_a_sentence_and_plots(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", classification_rows(), split="test-clean")
    (folder / "scores" / "test-other.jsonl").write_text((folder / "scores" / "test-clean.jsonl").read_text())
    content = json.loads((folder / "result.json").read_text())["metrics"]
    rewrite(folder, metrics={**content, "test-other": content["test-clean"]})
    words = Page(render(folder)).words
    assert "on test-clean;" in words and "on test-other;" in words and "on dev;" not in words
    assert {"confusion_test-clean.svg", "confusion_test-other.svg"} < set(draw(folder))


def test_trials_are_drawn_as_a_det_curve_and_labels_as_a_confusion_matrix(tmp_path: Path) -> None:
    assert list(draw(make_run(tmp_path / "a", trial_rows(), [Eer()]))) == [
        "learning_curve.svg",
        "det_test.svg",
        "scores_test.svg",
    ]
    assert list(draw(make_run(tmp_path / "b", classification_rows()))) == ["learning_curve.svg", "confusion_test.svg"]


def test_frame_rows_and_a_run_without_history_have_no_plots(tmp_path: Path) -> None:
    rows = [{"id": str(i), "speaker": f"s{i}", "correct": i, "total": 40} for i in range(20)]
    folder = make_run(tmp_path / "run", rows, history=[])
    assert draw(folder) == {}
    assert Page(render(folder)).references == []


def test_a_kept_plot_stands_in_for_a_drawn_one_of_its_name(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", classification_rows())
    (folder / "plots").mkdir()
    (folder / "plots" / "confusion_test.svg").write_bytes(b"<svg/>")
    (folder / "plots" / "extra.png").write_bytes(b"picture")
    references = Page(render(folder)).references
    assert len(references) == 3
    assert f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}" in references
    assert f"data:image/png;base64,{base64.b64encode(b'picture').decode()}" in references


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", trial_rows(), [Eer()])
    assert render(folder) == render(folder)


def test_a_run_that_did_not_finish_has_no_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", classification_rows())
    rewrite(folder, status="running")
    with pytest.raises(DataError, match="status 'running'"):
        render(folder)


def confusion(size: int) -> bytes:
    counts = np.eye(size, dtype=int) * 9
    counts[0] = 0
    return plots.confusion_plot(counts, [f"class {i}" for i in range(size)], format="png")


METRIC = Metric(80.0, "%", True, 10, (70.0, 90.0), chance=25.0)
DRAWINGS: dict[str, Any] = {
    "learning curve": lambda: plots.learning_curve([(0, 2.0), (1, 1.0)], [(1, 50.0)], metric="accuracy", unit="%",
                                                   best_step=1, format="png"),
    "loss alone": lambda: plots.learning_curve([(i, 1 / (i + 1)) for i in range(80)], [], metric="x", format="png"),
    "two classes": lambda: confusion(2),
    "sixty classes": lambda: confusion(60),
    "det": lambda: plots.det_plot(det_curve(np.arange(30) + 10.5, np.arange(30.0)), format="png"),
    "det without errors": lambda: plots.det_plot(det_curve([1.0, 2.0], [0.0]), format="png"),
    "det inverted": lambda: plots.det_plot(det_curve([0.0, 0.5], [1.0, 2.0]), format="png"),
    "intervals": lambda: plots.interval_plot([("a", METRIC), ("b", Metric(60.0, "%", True, 10, None))], name="accuracy",
                                             format="png"),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_plots_are_legible_pictures_on_a_light_ground(name: str) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image.open(io.BytesIO(DRAWINGS[name]())).convert("RGB")).astype(int)
    assert 200 < pixels.shape[0] < 2500 and 500 < pixels.shape[1] < 2500
    assert (pixels[0, 0] == 255).all()
    assert (pixels.sum(axis=2) < 300).mean() > 0.002  # ink: labels and lines


def test_plots_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="history of the run is empty"):
        plots.learning_curve([], [], metric="x")
    with pytest.raises(DataError, match=r"2 classes .* not the shape \(3, 3\)"):
        plots.confusion_plot(np.eye(3), ["a", "b"])
    with pytest.raises(DataError, match="no result"):
        plots.interval_plot([], name="x")


def test_importing_results_loads_neither_matplotlib_nor_scipy_nor_torch() -> None:
    program = (
        "import sys, headwater.results.report, headwater.results.compare, headwater.results.plots\n"
        "print([name for name in ('matplotlib', 'scipy', 'torch') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
