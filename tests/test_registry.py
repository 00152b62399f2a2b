"""Names: lazy, unique, and helpful where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

import headwater
from headwater.errors import UsageError
from headwater.registry import Card, Registry, add_plugin, downstreams, objectives, upstreams

CARDS = """
shift:
  expert: Shift
  summary: adds a constant to every mel bin
  aliases: [shifted]
  config: {by: 2.0}
"""
EXPERT = """
from headwater.audio.frontends import build_frontend
from headwater.nn.lengths import zero_beyond
from headwater.nn.upstream import Upstream
from .constants import CONFIG

class Shift(Upstream):
    def __init__(self, by):
        frontend = build_frontend(CONFIG)
        super().__init__(frontend, (frontend.out_dim,) * 2, ("input", "shifted"))
        self.by = by

    def hidden_states(self, x, lengths):
        return (x, zero_beyond(x + self.by, lengths)), lengths
"""
CONSTANTS = 'CONFIG = {"input": {"feat_type": "mel"}}\n'


def write_plugin(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "cards.yaml").write_text(CARDS)
    (folder / "expert.py").write_text(EXPERT)
    (folder / "constants.py").write_text(CONSTANTS)
    return folder


def test_an_unknown_name_gets_the_nearest_ones_and_the_list() -> None:
    with pytest.raises(UsageError, match=r"(?s)'fbnk'.*'fbank'.*headwater ls upstreams"):
        upstreams["fbnk"]
    with pytest.raises(UsageError, match=r"'speaker'"):
        downstreams["speker"]


def test_a_name_or_alias_stands_once() -> None:
    registry = Registry("upstream")
    taken = next(iter(registry))
    for name in (taken.name, "baseline"):
        card = Card(name=name, kind="upstream", folder=Path("elsewhere"), expert="X", summary="")
        with pytest.raises(UsageError, match="registered twice"):
            registry.add(card)


@pytest.mark.usefixtures("fresh_registry")
def test_a_plugin_folder_with_relative_imports_is_an_upstream(tmp_path: Path) -> None:
    add_plugin(write_plugin(tmp_path / "mine"))
    model = headwater.load("shifted")
    assert model.layer_names == ("input", "shifted")
    assert headwater.load("shift", config={"by": 5.0}).by == 5.0


@pytest.mark.usefixtures("fresh_registry")
def test_a_plugin_may_hold_several_families(tmp_path: Path) -> None:
    write_plugin(tmp_path / "all" / "upstream" / "mine")
    add_plugin(tmp_path / "all")
    assert headwater.load("shift").num_layers == 2


@pytest.mark.usefixtures("fresh_registry")
def test_only_a_folder_right_in_one_called_pretrain_is_an_objective(tmp_path: Path, fresh_registry: None) -> None:
    """Somebody's tasks may lie deep below a folder of that name."""
    for folder, name in (("pretrain/here/my_task", "a_task"), ("pretrain/here/pretrain/mine", "an_objective")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "card.yaml").write_text(f"{name}: {{expert: Mine, summary: mine}}\n")
    add_plugin(tmp_path / "pretrain" / "here")
    assert "a_task" in downstreams.names() and "an_objective" in objectives.names()
    assert "a_task" not in objectives.names() and "an_objective" not in downstreams.names()


def test_two_plugins_may_have_modules_of_one_name(tmp_path: Path) -> None:
    add_plugin(write_plugin(tmp_path / "one"))
    other = write_plugin(tmp_path / "two")
    (other / "cards.yaml").write_text(CARDS.replace("shift", "other"))
    (other / "constants.py").write_text(CONSTANTS.replace("mel", "linear"))
    add_plugin(other)
    assert headwater.load("shift").out_dim != headwater.load("other").out_dim


@pytest.mark.usefixtures("fresh_registry")
def test_nothing_of_a_plugin_runs_before_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "side_effect.py"
    file.write_text("raise SystemExit('ran')\n\nclass Model:\n    pass\n")
    add_plugin(file)
    assert "Model" in upstreams.names()


@pytest.mark.usefixtures("fresh_registry")
def test_a_broken_card_is_named(tmp_path: Path) -> None:
    folder = write_plugin(tmp_path / "bad")
    (folder / "cards.yaml").write_text("shift: {expert: Shift, sumary: typo}\n")
    with pytest.raises(UsageError, match=r"(?s)cards\.yaml.*'shift'"):
        add_plugin(folder)


def test_two_cards_of_one_file_cannot_share_an_alias(tmp_path: Path, fresh_registry: None) -> None:
    (tmp_path / "cards.yaml").write_text(
        "one: {expert: A, summary: a, aliases: [both]}\ntwo: {expert: B, summary: b, aliases: [both]}\n"
    )
    with pytest.raises(UsageError, match=r"'both' is registered twice: by one .* and by two"):
        add_plugin(tmp_path)


@pytest.mark.parametrize("frontend", ["Itself", "Layered"])
def test_a_front_end_with_layers_of_its_own_is_refused(frontend: str, tmp_path: Path, fresh_registry: None) -> None:
    """Else its layers would be left out in silence, and one that names itself would never end."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n\n"
        f"class Itself(torch.nn.Module):\n    frontend, out_dim = {frontend!r}, 240\n\n"
        "class Layered(torch.nn.Module):\n    frontend, out_dim = 'fbank', 240\n"
    )
    add_plugin(file)
    with pytest.raises(UsageError, match=f"names '{frontend}' as its front-end, which has layers of its own"):
        headwater.load("Itself")
