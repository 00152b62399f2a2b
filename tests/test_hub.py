"""torch.hub: any upstream, in any program, by one name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from headwater.errors import UsageError
from headwater.registry import upstreams

PROGRAM = """
import sys
import torch
import upstream  # the caller's own package of that name
before = list(sys.path)
model = torch.hub.load({root!r}, "fbank", source="local")
assert sys.path == before, "torch.hub puts sys.path back"
mel = torch.hub.load({root!r}, "mel", source="local", config={{"n_mels": 40, "n_freq": 201, "input": {{"feat_type": "mel", "log": True}}}})
features = model([torch.zeros(16000), torch.zeros(8000)])
assert features.lengths.tolist() == [98, 48], features.lengths
assert mel.extract([torch.zeros(1600)]).hidden_states[0].shape == (1, 11, 40)
assert upstream.MINE == 1
import headwater
assert headwater.load("mfcc").out_dim == 39  # what is imported late is found, too
print("ok")
"""


def test_hub_load_works_in_a_fresh_process_beside_a_package_called_upstream(tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream" / "__init__.py").write_text("MINE = 1\n")
    (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT)))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TORCH_HOME": str(tmp_path / "torch")}
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("ok")


def test_hubconf_is_a_view_of_the_registry(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import importlib.util

    spec = importlib.util.spec_from_file_location("hubconf_under_test", ROOT / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    offered = {name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")}
    assert offered == set(upstreams.names())
    assert all(getattr(module, name).__doc__ for name in offered)
    assert module.fbank(fairseq=True, legacy=False).name == "fbank", "as S3PRL's callers write it"
    with pytest.raises(UsageError, match="takes ckpt, config, device and refresh; got fair_seq"):
        module.fbank(fair_seq=True)
