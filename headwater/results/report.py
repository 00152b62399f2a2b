"""`report.html`: one self-contained page that says what a run found, on what, how surely, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.metrics.bands import det_band
from headwater.metrics.base import Metric, number
from headwater.metrics.classification import confusion_matrix
from headwater.metrics.detection import det_curve
from headwater.metrics.rows import Row, Table
from headwater.metrics.trials import TrialRows
from headwater.results import grid
from headwater.results.audio import MOST_BYTES, Clip, playable, read_clips
from headwater.results.names import safe
from headwater.results.page import IMAGE_TYPES, bullets, escaped, figure, page, player, section, table
from headwater.results.table import load_metrics, load_result, read_scores

MOST_CLASSES = 60  # what a confusion matrix can show legibly


def render(run_folder: str | Path) -> str:
    """The report of a finished run as HTML text, from its `result.json`, `scores/`, `config.yaml` and `plots/` alone.

    Raises DataError, naming folder, file or key, when this is no finished run.
    """
    folder = Path(run_folder)
    result = load_result(folder)
    metrics = {split: load_metrics(folder, split) for split in result["metrics"]}
    kept = _kept(folder)
    images = {**draw(folder, without=kept), **kept}
    clips = read_clips(folder)
    spectra = {_spectrogram(split, clip): clip for split, found in clips.items() for clip in found}
    title = f"{result['upstream']['name']} on {result['downstream']['name']}"
    sections = [
        f'<div class="answer">{_answer(result, metrics)}</div>',
        section("Metrics", _metric_table(metrics)),
        section("Breakdown", _breakdowns(_mapping(result.get("breakdown")))),
        section("Listen", _listen(clips, images)),
        section("Plots", _figures({name: image for name, image in images.items() if Path(name).stem not in spectra})),
        section("Grid", table(*grid.selections(result)) if result.get("arms") else ""),
        section("Learning rates on dev", table(*grid.rates(result)) if grid.rates(result)[1] else ""),
        section("What each layer contributed", _layers(result["upstream"])),
        section("Data", _data(_mapping(result.get("data")))),
        section("Run", _facts(result)),
        section("Notes", bullets(result.get("notes", []))),
        section("How to reproduce", _reproduction(folder)),
        section("Configuration", _config(folder)),
        section("Versions", table(("package", "version"), sorted(_mapping(result.get("versions")).items()))),
    ]
    return page(title, "\n".join(filter(None, sections)))


def draw(
    run_folder: str | Path, without: Iterable[str] = (), rows: Mapping[str, Sequence[Row]] | None = None
) -> dict[str, bytes]:
    """The plots that a run's history and scores give, as SVG by file name, except those that `without` names (in any format).

    `learning_curve.svg`; `layer_curve.svg` where layers were compared; for every test split `confusion_SPLIT.svg` where rows have a label and a prediction
    (up to 60 classes), or `det_SPLIT.svg` and `scores_SPLIT.svg` where they are trials; `spectrogram_SPLIT_CLIP.png` of what there is to listen to.
    `rows`: those of splits, where they need not be read again. Raises DataError when this is no finished run.
    """
    folder = Path(run_folder)
    result = load_result(folder)
    there = {Path(name).stem for name in without}
    images = {"learning_curve": _learning_curve(result)} if "learning_curve" not in there else {}
    if "layer_curve" not in there:
        images["layer_curve"] = _layer_curve(result)
    for split in _answering(result["metrics"]):
        if (folder / "scores" / f"{split}.jsonl").is_file() and not {f"confusion_{split}", f"det_{split}"} & there:
            scored = (rows or {}).get(split) or read_scores(folder, split)
            trials = isinstance(scored, TrialRows) or all(
                "score" in row and row.get("target") in (0, 1) for row in scored
            )
            if trials:
                images |= {f"{name}_{split}": image for name, image in _detection(scored).items()}
            else:
                images[f"confusion_{split}"] = _confusion(scored)
    drawn = {f"{name}.svg": image for name, image in images.items() if image is not None}
    for split, clips in read_clips(folder).items():
        for clip in clips:
            if (name := _spectrogram(split, clip)) not in there:
                drawn[f"{name}.png"] = spectrogram(clip)
    return drawn


def spectrogram(clip: Clip) -> bytes:
    """The signals of a clip, one below the other."""
    from headwater.results.plots import signals_plot

    return signals_plot({name: (samples, rate) for name, _, samples, rate in clip.signals()})


def _spectrogram(split: str, clip: Clip) -> str:
    """What its picture is called."""
    return f"spectrogram_{safe(split)}_{clip.stem}"


def _listen(clips: Mapping[str, Sequence[Clip]], images: Mapping[str, bytes]) -> str:
    """Every clip with its players side by side, and its picture; what is beyond the page's size is named only."""
    parts, left = [], MOST_BYTES
    for split, found in clips.items():
        for clip in found:
            players = []
            for name, file, samples, rate in clip.signals():
                sound, kind, known = playable(samples, rate)
                caption = f"{name} ({known})" if known else name
                if len(sound) > left:
                    players.append(f"<div>{escaped(caption)}: in audio/{escaped(f'{clip.folder.name}/{file}')}</div>")
                else:
                    left -= len(sound)
                    players.append(player(caption, sound, kind))
            parts.append(f'<h3>{escaped(f"{clip.id} ({split})")}</h3><div class="players">{"".join(players)}</div>')
            shown = next((image for image in images if Path(image).stem == _spectrogram(split, clip)), None)
            if shown is not None:
                parts.append(figure(f"spectrograms of {clip.id}", images[shown], Path(shown).suffix.lower()))
    return "".join(parts)


def _breakdowns(breakdown: Mapping[str, Any]) -> str:
    """For each split and key a table of groups, a column for each measure."""
    parts = []
    for split, keys in breakdown.items():
        for key, groups in keys.items():
            names = list(dict.fromkeys(name for group in groups.values() for name in group))
            rows = [
                (
                    group,
                    *(Metric.from_json(found[name]).describe() if name in found else "" for name in names),
                    _rows(found),
                )
                for group, found in groups.items()
            ]
            parts.append(f"<h3>{escaped(f'{split} by {key}')}</h3>" + table((key, *names, "n"), rows))
    return "".join(parts)


def _rows(found: Mapping[str, Mapping[str, Any]]) -> Any:
    return next(iter(found.values()))["n"] if found else ""


def _learning_curve(result: Mapping[str, Any]) -> bytes | None:
    from headwater.results.plots import learning_curve

    history = result.get("history") or []
    chosen = result["downstream"].get("metric", "")
    losses = [(point["step"], point["loss"]) for point in history if point.get("loss") is not None]
    dev = [
        (point["step"], point["dev"][chosen]) for point in history if _mapping(point.get("dev")).get(chosen) is not None
    ]
    if not losses and not dev:
        return None
    unit = _mapping(_mapping(result["metrics"].get("dev")).get(chosen)).get("unit", "")
    return learning_curve(losses, dev, metric=chosen, unit=unit, best_step=result.get("best_step") if dev else None)


def _layer_curve(result: Mapping[str, Any]) -> bytes | None:
    from headwater.results.plots import layer_curve

    found = grid.curve(result)
    return layer_curve(found[0], found[1], name=found[2]) if found is not None else None


def _confusion(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    from headwater.results.plots import confusion_plot

    shown = [row for row in rows if row.get("label") is not None and row.get("prediction") is not None]
    labels, predictions = ([str(row[key]) for row in shown] for key in ("label", "prediction"))
    classes = sorted({*labels, *predictions})
    if not 2 <= len(classes) <= MOST_CLASSES:
        return None
    return confusion_plot(confusion_matrix(labels, predictions, classes), classes)


def _detection(trials: Sequence[Row]) -> dict[str, bytes]:
    """`det` and `scores`; nothing unless both classes occur."""
    from headwater.results.plots import det_plot, score_plot

    table = Table(trials)
    scores, targets = table.column("score"), table.column("target")
    classes = scores[targets == 1], scores[targets == 0]
    if not all(map(len, classes)):
        return {}
    return {"det": det_plot(det_curve(*classes), det_band(table)), "scores": score_plot(*classes)}


def _answering(splits: Iterable[str]) -> list[str]:
    """The splits that give the answer: the tests, or all where none is called a test."""
    names = list(splits)
    return [name for name in names if name.startswith("test")] or names


def _answer(result: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Metric]]) -> str:
    """The headline: the choosing metric on each test split, in words."""
    upstream, chosen = result["upstream"], result["downstream"].get("metric")
    sentences = []
    for split in _answering(metrics):
        name = chosen if chosen in metrics[split] else next(iter(metrics[split]), None)
        if name is not None:
            sentences.append(_verdict(str(upstream["name"]), name, split, metrics[split][name]))
    how = f"Selection: {upstream.get('selection', 'not said')}"
    how += ", fine-tuned with the head." if upstream.get("fine_tuned") else ", upstream frozen."
    paragraphs = [*(sentences or ["This run has no metrics."]), f"{how} Seed {result['seed']}."]
    classes = [""] * (len(paragraphs) - 1) + [' class="soft"']
    return "".join(f"<p{kind}>{escaped(paragraph)}</p>" for kind, paragraph in zip(classes, paragraphs))


def _verdict(system: str, name: str, split: str, metric: Metric) -> str:
    direction = "higher" if metric.higher_is_better else "lower"
    text = f"{system} reaches {name} {metric.describe()} on {split}; {direction} is better."
    if metric.chance is not None:
        chance = f"{number(metric.chance, metric.unit)} {metric.unit}".rstrip()
        if metric.ci95 is None:
            text += f" Chance is {chance}."
        elif metric.includes_chance:
            text += f" The interval includes chance ({chance}), so this is not shown to differ from guessing."
        else:
            above = (metric.value > metric.chance) == metric.higher_is_better
            text += f" That is {'better' if above else 'worse'} than chance ({chance}), which the interval excludes."
    scored = "trials" if _mapping(metric.measure).get("kind") in ("eer", "min_dcf") else "utterances"
    # What is resampled is a speaker where speakers are known, else a row.
    speakers = f" of {metric.clusters} speakers" if metric.clusters not in (None, metric.n) else ""
    return f"{text} Measured on {metric.n} {scored}{speakers}." + (f" Note: {metric.note}." if metric.note else "")


def _metric_table(metrics: Mapping[str, Mapping[str, Metric]]) -> str:
    head = ("split", "metric", "value", "95 % interval", "chance", "n", "clusters", "note")
    rows = []
    for split, found in metrics.items():
        for name, metric in found.items():
            ends = "none" if metric.ci95 is None else " to ".join(number(end, metric.unit) for end in metric.ci95)
            chance = "" if metric.chance is None else number(metric.chance, metric.unit)
            value = f"{number(metric.value, metric.unit)} {metric.unit}".rstrip()
            rows.append((split, name, value, ends, chance, metric.n, metric.clusters or "", metric.note or ""))
    return table(head, rows)


def _kept(folder: Path) -> dict[str, bytes]:
    """The images in `plots/`, which stand in for drawn ones of the same name."""
    found = sorted(path for path in (folder / "plots").glob("*") if path.suffix.lower() in IMAGE_TYPES)
    return {path.name: path.read_bytes() for path in found if path.is_file() and not path.is_symlink()}


def _figures(images: Mapping[str, bytes]) -> str:
    parts = []
    for name in sorted(images, key=lambda name: (not name.startswith("learning_curve"), name)):
        parts.append(figure(Path(name).stem.replace("_", " "), images[name], Path(name).suffix.lower()))
    return "".join(parts)


def _layers(upstream: Mapping[str, Any]) -> str:
    weights = upstream.get("layer_weights") or []
    names = upstream.get("layer_names") or [str(i) for i in range(len(weights))]
    if len(weights) < 2 or len(weights) != len(names):
        return ""
    rows = "".join(
        f'<tr><td>{escaped(name)}</td><td><meter min="0" max="{max(weights):.6f}" value="{weight:.6f}"></meter></td>'
        f"<td>{weight:.4f}</td></tr>"
        for name, weight in zip(names, weights)
    )
    return f'<div class="wide"><table><tr><th>layer</th><th></th><th>weight</th></tr>{rows}</table></div>'


def _data(data: Mapping[str, Any]) -> str:
    head = ("split", "utterances", "hours", "speakers")
    rows = [
        (name, split.get("utterances"), f"{split.get('seconds', 0) / 3600:.3f}", split.get("speakers"))
        for name, split in _mapping(data.get("splits")).items()
    ]
    facts = [(key, data[key]) for key in ("name", "reader", "path", "sha256") if data.get(key) is not None]
    skipped = [str(item) for item in data.get("skipped") or []]
    return (
        table((), facts) + table(head, rows) + (f"<p>Skipped: {len(skipped)}.</p>{bullets(skipped)}" if skipped else "")
    )


def _facts(result: Mapping[str, Any]) -> str:
    upstream = result["upstream"]
    rows = [
        ("upstream weights (sha256)", upstream.get("weights_sha256")),
        ("settings (sha256)", result.get("config_sha256")),
        ("steps", result.get("steps")),
        ("best step", result.get("best_step")),
        ("seed", result.get("seed")),
        ("trained parameters", result.get("parameters")),
        *((f"{key.removesuffix('_s')} (s)", f"{value:.1f}") for key, value in _mapping(result.get("timing")).items()),
    ]
    return table((), [row for row in rows if row[1] is not None])


def _reproduction(folder: Path) -> str:
    command = f"python run_downstream.py -m evaluate -e {shlex.quote(str(folder))}"
    return (
        f"<p>Score the saved model again:</p><pre>{escaped(command)}</pre>"
        "<p>To train it again, give the settings below as a recipe; they and the seed fix every random draw.</p>"
    )


def _config(folder: Path) -> str:
    path = folder / "config.yaml"
    if not path.is_file():
        return ""
    content = path.read_text(encoding="utf-8", errors="replace")
    return f"<details><summary>config.yaml</summary><pre>{escaped(content)}</pre></details>"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
