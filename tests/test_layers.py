"""The architecture as a test: imports point one way, and listing needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# Each may import what stands before it, and its own layer.
LAYERS = [
    {"errors", "paths", "progress"},
    {"audio", "nn", "metrics", "settings", "config", "identity"},
    {"registry", "weights", "download", "pickles", "fairseq", "data", "store", "results", "separation", "vocoder"},
    {"loading"},
    {
        "checks",
        "train",
        "mam",
        "hf",
        "masked",
        "pretrained",
        "preprocess",
        "units",
        "analysis",
        "extraction",
        "probes",
        "speed",
    },
    {"upstream", "downstream", "pretrain"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# `headwater.load` is the package's front door: inside a function, so that the package itself imports nothing.
DOORS = {("__init__", "loading")}


def modules() -> list[Path]:
    folders = [ROOT / "headwater", *(ROOT / kind for kind in ("upstream", "downstream", "pretrain"))]
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def part_of(file: Path) -> str:
    inside = file.relative_to(ROOT)
    return inside.with_suffix("").parts[1] if inside.parts[0] == "headwater" else inside.parts[0]


def imported(file: Path) -> list[str]:
    """Second parts of the `headwater.X` names that a file imports anywhere, TYPE_CHECKING blocks left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [
                f"{node.module}.{alias.name}" if node.module == "headwater" else node.module for alias in node.names
            ]
    return [name.split(".")[1] for name in names if name.startswith("headwater.") and not name.endswith("__version__")]


def test_every_module_has_a_layer() -> None:
    assert {part_of(file) for file in modules()} - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    here = part_of(file)
    for there in imported(file):
        if (here, there) not in DOORS:
            assert LEVEL[there] <= LEVEL[here], f"{file} ({here}) imports headwater.{there}, which lies above it"


def test_the_core_names_no_expert() -> None:
    cards = [file for kind in ("upstream", "downstream") for file in (ROOT / kind).glob("*/card*.yaml")]
    families = {file.parent.name for file in cards}
    for file in modules():
        if part_of(file) in {"upstream", "downstream"}:
            continue
        for kind in ("upstream", "downstream"):
            for family in families:
                assert f"headwater.{kind}.{family}" not in file.read_text(encoding="utf-8"), f"{file} names {family}"


@pytest.mark.parametrize(
    "program",
    [
        "from headwater.cli.main import main; main(['ls'])",
        "from headwater.cli.run_settings import parser; parser().format_help()",
        "from headwater.cli.run import main\nfrom headwater.errors import UsageError\ntry: main(['-u', 'nothing'])\nexcept UsageError: pass",
    ],
    ids=["ls", "help", "unknown name"],
)
def test_listing_and_help_import_nothing_heavy(program: str) -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'matplotlib', 'soundfile', 'transformers'}"
    check = (
        f"{program}\nimport sys; loaded = {heavy} & set(sys.modules); sys.exit(f'imported {{loaded}}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
