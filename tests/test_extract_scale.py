"""docs/scale.md: its table is what bench/scale.py prints, and hours come from what bench/extraction.py printed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, program


@pytest.fixture()
def scale() -> ModuleType:
    return program("scale")


def test_the_table_of_the_page_is_what_the_program_prints(
    scale: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    scale.main()
    assert f"```text\n{capsys.readouterr().out}```" in (ROOT / "docs" / "scale.md").read_text()


def test_hours_come_from_measured_speed(
    scale: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    printed = tmp_path / "extraction.txt"
    printed.write_text(
        "tera, 21.3 M parameters, 16 clips, 130 s, 3.97 GFLOP a second of audio\n"
        "by length  padded  float32   17.0 [16.0, 18.0]    1.00 [1.00, 1.00]   40 [39, 41]\n"
        "by length  ours    float32   36.0 [35.0, 37.0]    2.10 [2.00, 2.20]   80 [79, 81]\n"
        "\nhubert, 94.4 M parameters, 16 clips, 130 s, 13.80 GFLOP a second of audio\n"
        "file order ours    float32   12.0 [11.0, 13.0]    1.80 [1.70, 1.90]   85 [84, 86]\n"
        "by length  ours    bfloat16  30.0 [29.0, 31.0]    4.50 [4.40, 4.60]   60 [59, 61]\n"
    )
    arguments = ["--hours", "7200", "--upstreams", "--from", str(printed), "--workers", "2", "--price", "0.5"]
    monkeypatch.setattr(sys, "argv", ["scale.py", *arguments])
    scale.main()
    said = capsys.readouterr().out
    assert "tera float32: 36 audio s/s; 200 worker hours, 4.2 days on 2 worker(s), 100 at 0.5 an hour" in said
    assert "hubert bfloat16: 30 audio s/s; 240 worker hours, 5.0 days" in said
    assert "17" not in said and "12 audio" not in said
