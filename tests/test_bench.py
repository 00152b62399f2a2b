"""`headwater bench`, what it is made of, and the programs in bench/."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Answer, program

import headwater
from headwater.config import FeatureSet
from headwater.nn.upstream import Upstream
from headwater.speed.machine import count_flops, dtypes, limits, matmul_peak, peak_memory
from headwater.speed.upstream import measure, store_bytes

PROGRAMS = sorted(file.name for file in (ROOT / "bench").glob("*.py"))
HOUR = 3600


@pytest.fixture()
def quick_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of the machine, measured for a moment only."""
    monkeypatch.setattr("headwater.speed.upstream.matmul_peak", lambda dtype, count: matmul_peak(dtype, count, 0.05))


@pytest.mark.parametrize("name", ["fbank", "tera.demo"])
def test_the_verb_says_and_writes_how_fast_an_upstream_is(
    name: str, command: Callable[..., Answer], quick_peak: None
) -> None:
    answer = command("bench", name, "--seconds", "0.2", "--device", "cpu", "--json", "found.json")
    assert answer.code == 0, answer.err
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert list(lines) == ["machine", "upstream", "speed", "limit", "memory", "store"]
    found = json.loads(Path("found.json").read_text())
    upstream = headwater.load(name)
    assert (found["upstream"], found["layers"], found["device"]) == (name, upstream.num_layers, "cpu")
    assert found["parameters"] == sum(parameter.numel() for parameter in upstream.parameters())
    assert found["seconds"] >= 0.2
    assert math.isclose(found["audio_per_second"], found["rounds"] * found["audio_s"] / found["seconds"])
    assert math.isclose(found["real_time_factor"] * found["audio_per_second"], 1)
    assert found["audio_per_second"] > 1 and found["share_of_peak"] > 0
    assert found["memory"] > 50 * 2**20 and found["device_memory"] is None and found["error"] is None
    assert f"{found['audio_per_second']:.1f} s of audio a second" in lines["speed"]
    frames = HOUR * upstream.sample_rate / upstream.stride * sum(upstream.layer_dims) * 4
    assert math.isclose(found["store"]["frames float32"], frames, rel_tol=0.02)
    for form in ("frames", "means"):
        assert abs(found["store"][f"{form} float32"] - 2 * found["store"][f"{form} float16"]) <= 1
    assert found["store"]["means float32"] < found["store"]["frames float32"] / 10


def test_bfloat16_states_its_error(quick_peak: None) -> None:
    if "bfloat16" not in dtypes(torch.device("cpu")):
        pytest.skip("this CPU computes no bfloat16")
    upstream = headwater.load("tera.demo")
    generator = torch.Generator().manual_seed(0)
    wavs = [torch.randn(size, generator=generator) / 10 for size in (8000, 12000, 16000)]
    found = measure(upstream, wavs, dtype="bfloat16", seconds=0.01)
    assert found.error is not None and len(found.error) == upstream.num_layers
    assert all(0 < error < 0.05 for error in found.error[1:])
    assert any(line.startswith("error ") for line in found.lines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fbnak"], "fbank"),
        (["fbank", "--seconds", "0"], "--seconds 0"),
        (["fbank", "-o", "store.cache=false"], "-o store.cache"),
        (["features"], "precomputed features"),
        (["fbank", "-k", "weights.pt"], "weights.pt"),
        (["fbank", "--device", "nowhere"], "nowhere"),
    ],
    ids=["unknown name", "no time", "foreign setting", "no front-end", "weights it does not take", "device"],
)
def test_what_cannot_be_measured_is_refused_by_name(
    arguments: list[str], said: str, command: Callable[..., Answer]
) -> None:
    answer = command("bench", *arguments)
    assert answer.code == 2 and said in answer.err, answer.err


@pytest.mark.parametrize("bias", [True, False])
def test_operations_of_a_linear_layer_are_two_for_each_weight_and_row(bias: bool) -> None:
    layer, rows = torch.nn.Linear(24, 40, bias=bias), 7
    assert count_flops(lambda: layer(torch.zeros(rows, 24))) == 2 * rows * 24 * 40


def test_operations_of_attention_are_counted_on_cpu() -> None:
    batch, heads, frames, dims = 2, 3, 50, 16
    q = torch.zeros(batch, heads, frames, dims)
    with torch.no_grad():
        found = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert found == 2 * 2 * batch * heads * frames**2 * dims


def test_the_limits_stand_in_one_line_and_are_what_a_processor_may_have() -> None:
    said = limits(1, 0.02)
    found = re.search(r"1 thread\(s\).*float32 (\d+) GFLOP/s.*memory ([\d.]+) GB/s$", said)
    assert found and "\n" not in said, said
    assert 0.1 < float(found[1]) < 1e5 and 0.01 < float(found[2]) < 1e4


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = torch.ones(2**26)  # 256 MiB
    assert peak_memory() >= before and peak_memory() > held.nbytes


def test_bytes_for_an_hour_are_those_of_the_layers() -> None:
    class Two(Upstream):
        def __init__(self) -> None:
            super().__init__(headwater.load("fbank").frontend, (3, 5), ("one", "two"))

    upstream = Two()
    rate, seconds = upstream.sample_rate, 10
    found = store_bytes(upstream, [rate * seconds] * 4)
    assert found["means float32"] == HOUR // seconds * (3 + 5) * 4
    assert found["frames float16"] == upstream.frames(rate * seconds) * HOUR // seconds * (3 + 5) * 2


def test_help_of_the_programs_that_are_run_first_imports_nothing_heavy() -> None:
    check = (
        "import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as ended: assert not ended.code\n"
        "assert not {'torch', 'numpy', 'scipy'} & set(sys.modules), 'heavy'"
    )
    for name in ("machine", "probing", "vs_s3prl", "collect"):
        file = str(ROOT / "bench" / f"{name}.py")
        done = subprocess.run([sys.executable, "-c", check, file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--threads" in done.stdout


def test_make_bench_runs_programs_that_exist_with_flags_they_know() -> None:
    collect = program("collect")
    on_real_speech = {"real_speech.py", "ssl_models.py", "spoofing.py", "separating.py", "vocoding.py"}
    measured_elsewhere = {"collect.py", "scale.py", *on_real_speech}
    assert {f"{name}.py" for name in collect.FORMS} == set(PROGRAMS) - measured_elsewhere
    for name, form in collect.FORMS.items():
        text = (ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")
        for word in shlex.split(f"{form.full} {form.quick} {form.data} {form.threads}"):
            assert not word.startswith("--") or f'"{word}"' in text, f"{name} {word}"
    words = collect.command_of("extraction", quick=True, data=True, threads=2)
    assert words == ["bench/extraction.py", "--quick", "--data", "DATA", "--threads", "2"]
    assert "bench/collect.py --quick" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_measurement_has_a_place_in_the_page_and_replaces_nothing_but_its_own() -> None:
    collect = program("collect")
    before = collect.README.read_text(encoding="utf-8")
    for name in collect.FORMS:
        content = collect.block([f"bench/{name}.py"], r"ratio \1 2.00", "a machine; commit abc")
        after = collect.replaced(before, name, content)
        assert content in after
        kept = re.compile(rf"<!-- measured: {name} -->.*?<!-- end -->", re.DOTALL)
        assert kept.sub("", after) == kept.sub("", before)
    with pytest.raises(KeyError):
        collect.replaced(before, "nothing", "")
    rows = re.findall(r"`(\w+\.py)\b", before.split("\n## ")[0])
    assert set(rows) | {"collect.py"} == set(PROGRAMS)


def test_parts_of_a_table_are_all_its_rows_once_and_a_finished_run_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program("separating")  # which imports it as it will be found there
    tables = sys.modules["common.tables"]
    parser = tables.arguments("", ["tera.demo"])
    rows = {f"row{number}": ["-u", str(number)] for number in range(7)}
    parts = [parser.parse_args(["DATA", "--out", "OUT", "--part", f"{part}/3"]) for part in range(3)]
    assert sorted(row for args in parts for row in tables.mine(rows, args)) == sorted(rows.items())
    assert tables.mine(rows, parser.parse_args(["DATA", "--out", "OUT", "--only-table"])) == []
    some = parser.parse_args(["DATA", "--out", "OUT", "--systems", "row5", "row2"])
    assert list(tables.asked(rows, parser, some)) == ["row2", "row5"]
    for words, said in (
        (["--part", "2/2"], "of two they are 0/2 and 1/2"),
        (["--systems", "rwo1"], "no row rwo1, but"),
    ):
        with pytest.raises(SystemExit) as ended:
            tables.asked(rows, parser, parser.parse_args(["DATA", "--out", "OUT", *words]))
        assert ended.value.code == 2 and said in capsys.readouterr().err
    called: list[list[str]] = []
    monkeypatch.setattr(tables, "guarded", lambda _, words: called.append(words) or 3)
    assert not tables.made(tmp_path, ["-u", "fbank"])
    assert called == [["-u", "fbank", "-p", str(tmp_path)]]
    (tmp_path / "result.json").write_text("{}")
    assert tables.made(tmp_path, ["-u", "fbank"]) and len(called) == 1


def test_where_s3prl_is_not_there_the_comparison_says_so_and_ends_well() -> None:
    vs = program("vs_s3prl")
    command = [sys.executable, vs.__file__, "--small", "--clips", "1", "--python", "/no/such/python"]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "/no/such/python: No such file or directory; so there is no comparison with it here\n"


def test_a_recomputing_run_is_scaled_by_its_epochs_and_evaluations() -> None:
    probing = program("probing")
    args = probing.argparse.Namespace(epochs=20, timed_epochs=2)
    # 100 s of which 70 in training: 2 epochs of 30 s and one evaluation on dev of 10 s; in the end 10 s for dev and 15 s for test.
    short = probing.Ran(100.0, {"train_s": 70.0, "evaluate_s": 25.0}, 1, [])
    assert math.isclose(probing.scaled(args, short, evaluations=3, share_of_dev=0.4), 100 + 18 * 30 + 2 * 10)


def test_an_upstream_of_features_has_no_speed_on_speech() -> None:
    upstream = headwater.load("features")
    upstream.take_features(FeatureSet(kind="fbank80", dim=80, sample_rate=16000, stride=160, offset=200))
    with pytest.raises(headwater.errors.UsageError):
        measure(upstream, [torch.zeros(16000)], seconds=0.01)
