"""What all tests share: where real data may lie, the demo corpus made once, and commands run in this process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.nn.upstream import Upstream

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HEADWATER_OFFLINE"] = (
    "1"  # no test downloads anything; those of the downloads themselves have a server of their own
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of parity cases and real speech beside the repository, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.name}/ beside the repository: parity cases and real speech lie there")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def feature_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests keep frozen features: never where the user's lie."""
    folder = tmp_path_factory.mktemp("features")
    os.environ["HEADWATER_STORE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def drawn_from_a_seed() -> None:
    """What a test draws from torch's one global generator depends on no test before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the demo corpus in it, made once for all test processes."""
    from headwater.data.demo import demo_folder

    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"
    cache.mkdir(exist_ok=True)
    with FileLock(str(cache) + ".lock"):
        demo_folder(cache)
    return cache


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture()
def command(
    tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run `headwater VERB ...` in this process, in an empty folder, with the demo corpus at hand."""
    from headwater.cli.main import main
    from headwater.cli.shell import guarded

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_CACHE", str(demo_cache))

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        try:
            code = guarded(main, [str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


def program(name: str) -> ModuleType:
    """A program of bench/."""
    spec = importlib.util.spec_from_file_location(f"headwater_bench_{name}", ROOT / "bench" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(ROOT / "bench"))  # as where it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "bench"))
    return module


@pytest.fixture(scope="session")
def kill() -> ModuleType:
    """bench/kill.py."""
    return program("kill")


def skip_without_weights(name: str) -> None:
    """A test of the upstream of this name is skipped where its weights are a download that is not in the cache, or the user's. Bundled ones must be there."""
    from headwater.download import standing
    from headwater.registry import upstreams

    weights = standing(upstreams[name])
    if weights not in (None, "bundled", "missing", "in the cache"):
        pytest.skip(f"weights: {weights}")


@pytest.fixture()
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins registered in a test are gone after it."""
    from headwater.registry import registries

    for registry in registries.values():
        monkeypatch.setattr(registry, "_cards", dict(registry.cards))
        monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))


@pytest.fixture()
def tiny_corpus(tmp_path: Path) -> Path:
    """A table of 15 utterances of three speakers."""
    from task_runs import tiny

    return tiny(tmp_path / "corpus")


@pytest.fixture(scope="module")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of 30 utterances of tones, and their labels beside it."""
    from loops import tones

    return tones(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def loop_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of an upstream with a batch norm, registered for a module."""
    from loops import registered

    with registered(tmp_path_factory.mktemp("plugin")) as name:
        yield name


@pytest.fixture(scope="module")
def stored_upstream() -> Upstream:
    from stored_features import three

    return three()


@pytest.fixture(scope="module")
def stored_answers(stored_upstream: Upstream) -> dict[str, list[Tensor]]:
    """What is right of a store: computed anew, kept nowhere."""
    from stored_features import Frozen, answers

    return answers(Frozen(stored_upstream, None))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpora and runs of tests of wrong use, made once."""
    from faults import make_all

    return make_all(tmp_path_factory.mktemp("made"))


@pytest.fixture()
def place(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Callable[..., None]:
    """Copies parts of `made` into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own habit beside a plugin

    def bring(*parts: str) -> None:
        for part in parts:
            shutil.copytree(made / part, part)
        for file in Path().glob("run-*/config.yaml"):
            # A run says in full where its corpus lies; here that is the copy.
            file.write_text(file.read_text().replace(str(made), str(tmp_path)))

    return bring
