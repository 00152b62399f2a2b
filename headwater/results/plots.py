"""Plots of results as PNG or SVG bytes, drawn from plain data.

Every function builds its own Figure and touches no state of pyplot, so that plots can be drawn from threads and
without a display. Colours are those of Okabe and Ito, which stay distinct under the common colour blindnesses.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import DataError
from headwater.metrics.bands import DetBand
from headwater.metrics.base import Metric
from headwater.metrics.detection import DetCurve, det_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ImageFormat = Literal["svg", "png"]

BLUE, VERMILION, GREEN, GREY, LIGHT, INK = "#0072B2", "#D55E00", "#009E73", "#6B7280", "#E5E7EB", "#1F2937"
SERIES = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKED = 20  # classes up to which the cells of a confusion matrix carry their number
DET_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
DET_POINTS = 2000
SCORE_BINS = 60


def learning_curve(
    losses: Sequence[tuple[int, float]],
    dev: Sequence[tuple[int, float]],
    *,
    metric: str,
    unit: str = "",
    best_step: int | None = None,
    format: ImageFormat = "svg",
) -> bytes:
    """Training loss and the metric on dev, each as (step, value) pairs; `best_step` is the chosen checkpoint."""
    if not losses and not dev:
        raise DataError("There is no loss and no dev score to draw; the history of the run is empty.")
    figure = _figure(7.2, 4.6 if losses and dev else 2.9)
    count = bool(losses) + bool(dev)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    if losses:
        steps, values = np.array(losses, dtype=float).T
        smooth = len(values) >= 50
        panels[0].plot(steps, values, color=BLUE, lw=0.8 if smooth else 1.8, alpha=0.35 if smooth else 1.0)
        if smooth:
            panels[0].plot(steps, _running_mean(values, len(values) // 25), color=BLUE, lw=1.8)
        _finish(panels[0], "", "training loss")
    if dev:
        steps, values = np.array(dev, dtype=float).T
        panels[-1].plot(steps, values, color=VERMILION, lw=1.6, marker="o", ms=3.5)
        _finish(panels[-1], "", _with_unit(f"dev {metric}", unit))
    if best_step is not None:
        for panel in panels:
            panel.axvline(best_step, color=GREEN, lw=1.2, ls=(0, (4, 2)), zorder=0)
        panels[0].annotate(
            f"chosen: step {best_step}", (best_step, 1.0), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", color=GREEN, fontsize=8.5, ha="center",
        )  # fmt: skip
    panels[-1].set_xlabel("step")
    return _bytes(figure, format)


def confusion_plot(counts: ArrayLike, classes: Sequence[str], *, format: ImageFormat = "svg") -> bytes:
    """A confusion matrix: `counts` (C, C), row i the labels of class i, shown as shares of their row."""
    table = np.asarray(counts, dtype=float)
    size = len(classes)
    if not size or table.shape != (size, size):
        raise DataError(
            f"A confusion matrix of {size} classes has as many rows and columns, not the shape {table.shape}."
        )
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.full_like(table, np.nan), where=totals > 0)
    cell = float(np.clip(7.0 / size, 0.19, 0.8))
    names = [_short(name) for name in classes]
    margin = 0.075 * max(map(len, names))
    figure = _figure(max(cell * size, 1.8) + margin + 1.5, max(cell * size, 1.8) + margin + 0.9)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap=_blues(), vmin=0, vmax=100, interpolation="nearest")
    fontsize = float(np.clip(cell * 24, 5.5, 9.5))
    axes.set_xticks(range(size), names, rotation=90 if margin > cell else 0, fontsize=fontsize)
    axes.set_yticks(range(size), names, fontsize=fontsize)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xticks(np.arange(1, size) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, size) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.0 if size <= MARKED else 0.4)
    axes.tick_params(which="minor", length=0)
    if size <= MARKED:
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                colour = "white" if share > 0.55 else INK
                axes.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=fontsize
                )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, aspect=30)
    bar.set_label("share of the true class (%)", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    bar.outline.set_visible(False)
    return _bytes(figure, format)


def det_plot(curve: DetCurve, band: DetBand | None = None, *, format: ImageFormat = "svg") -> bytes:
    """The detection error trade-off on normal-deviate axes, with the point of the equal error rate and the band of the curve's resamples."""
    from scipy.special import ndtri  # type: ignore[import-untyped,unused-ignore]

    # Rates below half a trial cannot be told from 0, and 0 has no place on these axes.
    floors = 0.5 / curve.negatives, 0.5 / curve.positives
    x, y = (np.clip(r, f, 1 - f) for r, f in zip((curve.false_alarm, curve.miss), floors))
    deviates = np.stack([ndtri(x), ndtri(y)])
    cells = np.unique(np.round((deviates[0] - deviates[1]) * DET_POINTS / 12).astype(np.int64), return_index=True)[1]
    kept = np.sort(np.append(cells, deviates.shape[1] - 1))
    figure = _figure(5.4, 5.2)
    axes = figure.subplots()
    rate = curve.eer()
    lowest = min(max(min(floors), 0.0008), rate / 3 if rate > 0 else 1.0)
    ends = ndtri(max(lowest, 5e-4)), ndtri(max(0.6, min(0.95, 1.3 * rate)))
    axes.plot(ends, ends, color=GREY, lw=0.9, ls=(0, (4, 3)), zorder=1)
    axes.plot(*deviates[:, kept], color=BLUE, lw=1.9, zorder=2)
    if band is not None:
        between = (ndtri(rates) for rates in (band.false_alarm, band.low, band.high))
        axes.fill_between(*between, color=BLUE, alpha=0.15, lw=0, zorder=1, label="95 % of resamples")
    if rate > 0:
        point = ndtri(np.clip(rate, max(lowest, 5e-4), 0.999))
        axes.plot(point, point, "o", color=VERMILION, ms=7, zorder=3, label=f"EER {100 * rate:.2f} %")
    else:
        axes.plot([], [], "o", color=VERMILION, ms=7, label="EER 0.00 % (the classes do not overlap)")
    axes.legend(loc="upper right", framealpha=1.0, edgecolor="white", fontsize=9.5, labelcolor=INK)
    ticks = [tick for tick in DET_TICKS if ends[0] <= ndtri(tick) <= ends[1]]
    labels = [f"{100 * tick:g}" for tick in ticks]
    axes.set_xticks(ndtri(ticks), labels)
    axes.set_yticks(ndtri(ticks), labels)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    _finish(axes, "false alarms: negatives accepted (%)", "misses: positives rejected (%)")
    axes.grid(axis="x", color=LIGHT, lw=0.7)
    return _bytes(figure, format)


def score_plot(positives: ArrayLike, negatives: ArrayLike, *, format: ImageFormat = "svg") -> bytes:
    """How often each class has which score, with the threshold of the equal error rate."""
    accepted, rejected = (np.asarray(scores, dtype=np.float64) for scores in (positives, negatives))
    classes = (accepted, rejected)
    everything = np.concatenate(classes)
    low, high = np.quantile(everything, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1.0, SCORE_BINS + 1)
    figure = _figure(5.8, 3.4)
    axes = figure.subplots()
    for scores, name, color in zip(classes, ("to be accepted", "to be rejected"), (BLUE, VERMILION)):
        # What lies outside belongs to the outermost bins.
        shares = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0] * (100 / len(scores))
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.25)
        axes.stairs(shares, edges, color=color, lw=1.4, label=f"{name} ({len(scores)})")
    threshold = det_curve(accepted, rejected).eer_threshold()
    if edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, color=GREY, lw=1.0, ls=(0, (4, 3)), label="threshold of the EER")
    axes.legend(framealpha=1.0, edgecolor="white", fontsize=8.5, labelcolor=INK)
    _finish(axes, "score", "share of the class (%)")
    return _bytes(figure, format)


def interval_plot(rows: Sequence[tuple[str, Metric]], *, name: str, format: ImageFormat = "svg") -> bytes:
    """One metric of several runs: a dot with its 95 % interval a row, in the order given, the first on top."""
    if not rows:
        raise DataError("There is no result to draw.")
    labels, metrics = zip(*rows)
    names = [_short(label, 44) for label in labels]
    figure = _figure(4.6 + 0.072 * max(map(len, names)), 0.95 + 0.34 * len(rows))
    axes = figure.subplots()
    for row, metric in enumerate(metrics):
        if metric.ci95 is not None:
            axes.plot(metric.ci95, (row, row), color=BLUE, lw=2.2, solid_capstyle="butt", alpha=0.55)
            axes.plot(metric.ci95, (row, row), "|", color=BLUE, ms=8, mew=1.4)
        axes.plot(metric.value, row, "o", color=BLUE, ms=6.5, mec="white", mew=0.8)
    chances = {metric.chance for metric in metrics}
    if len(chances) == 1 and (chance := chances.pop()) is not None:
        axes.axvline(chance, color=VERMILION, lw=1.2, ls=(0, (4, 2)), zorder=0)
        axes.annotate(
            "chance", (chance, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=VERMILION, fontsize=8.5, ha="center",
        )  # fmt: skip
    direction = "higher is better" if metrics[0].higher_is_better else "lower is better"
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    _finish(axes, f"{_with_unit(name, metrics[0].unit)}, {direction}", "")
    axes.grid(axis="x", color=LIGHT, lw=0.7)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return _bytes(figure, format)


def spectrogram_plot(frames: Mapping[str, ArrayLike], *, format: ImageFormat = "png") -> bytes:
    """Features (T, D) over time, one panel each under its name, low dims at the bottom; all of one width share their colours."""
    panels = {name: np.asarray(values, dtype=float) for name, values in frames.items()}
    figure = _figure(7.2, 1.5 * len(panels))
    first = next(iter(panels.values()))
    for axes, (name, values) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        low, high = np.percentile(first if values.shape == first.shape else values, (1, 99))
        axes.imshow(values.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, interpolation="nearest")
        axes.set_ylabel(name, color=INK, fontsize=9)
        axes.set_yticks([])
        axes.tick_params(colors=INK, labelsize=8, length=3, width=0.6)
    axes.set_xlabel("frame", color=INK, fontsize=9)
    return _bytes(figure, format)


def layers_plot(
    series: Mapping[str, Sequence[Metric]], layers: Sequence[str], *, name: str, format: ImageFormat = "svg"
) -> bytes:
    """A metric over layers, a line with its 95 % intervals for each of `series`, which may end before the last layer."""
    figure = _figure(max(4.2, 1.6 + 0.55 * len(layers)), 3.6)
    axes = figure.subplots()
    for number, (label, metrics) in enumerate(series.items()):
        colour = SERIES[number % len(SERIES)]
        values = [metric.value for metric in metrics]
        ends = np.array([metric.ci95 or (metric.value, metric.value) for metric in metrics])
        places = np.arange(len(values))
        axes.fill_between(places, *ends.T, color=colour, alpha=0.2, lw=0)
        axes.plot(places, values, color=colour, lw=1.8, marker="o", ms=4.5, label=_short(label, 44))
    _layer_axis(axes, layers)
    axes.set_ylim(bottom=0)
    _finish(axes, "", name)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _bytes(figure, format)


def layer_curve(
    series: Mapping[str, Sequence[tuple[int, Metric]]],
    weighted: Mapping[str, Metric],
    *,
    name: str,
    format: ImageFormat = "svg",
) -> bytes:
    """A metric over single layers, with 95 % intervals: a line for each split, and a dashed one at the height that the weighted sum of all reaches."""
    layers = sorted({layer for points in series.values() for layer, _ in points})
    figure = _figure(max(4.8, 2.6 + 0.42 * len(layers)), 3.8)
    axes = figure.subplots()
    for number, (split, points) in enumerate(series.items()):
        colour = SERIES[number % len(SERIES)]
        places = np.array([layer for layer, _ in points])
        ends = np.array([metric.ci95 or (metric.value, metric.value) for _, metric in points])
        axes.fill_between(places, *ends.T, color=colour, alpha=0.15, lw=0)
        values = [metric.value for _, metric in points]
        axes.plot(places, values, color=colour, lw=1.8, marker="o", ms=4.5, label=_short(split, 44))
        if split in weighted:
            label = f"{_short(split, 30)}, weighted sum"
            axes.axhline(weighted[split].value, color=colour, lw=1.2, ls=(0, (4, 2)), label=label)
    axes.set_xticks(layers)
    unit = next(iter(series.values()))[0][1].unit
    _finish(axes, "layer", _with_unit(name, unit))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _bytes(figure, format)


def weights_plot(series: Mapping[str, Sequence[float]], layers: Sequence[str], *, format: ImageFormat = "svg") -> bytes:
    """Learned layer weights, a group of bars for each layer and a colour for each of `series`."""
    width = 0.8 / len(series)
    figure = _figure(max(4.2, 1.6 + len(layers) * max(0.55, 0.16 * len(series))), 3.6)
    axes = figure.subplots()
    for number, (label, weights) in enumerate(series.items()):
        places = np.arange(len(weights)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, weights, 0.92 * width, color=SERIES[number % len(SERIES)], label=_short(label, 44))
    _layer_axis(axes, layers)
    _finish(axes, "", "weight")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _bytes(figure, format)


def attention_plot(maps: Sequence[ArrayLike], titles: Sequence[Sequence[str]], *, format: ImageFormat = "png") -> bytes:
    """Attention maps, one row (heads, S, S) a layer; queries downwards, keys to the right, each map with colours of its own."""
    rows, columns = len(titles), len(titles[0])
    figure = _figure(1.15 * columns, 1.35 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for layer, heads in enumerate(maps):
        for head, values in enumerate(np.asarray(heads, dtype=float)):
            axes = grid[layer, head]
            axes.imshow(values, cmap="magma", vmin=0, vmax=np.quantile(values, 0.995) or 1, interpolation="nearest")
            axes.set_title(titles[layer][head], fontsize=7, color=INK, pad=2)
            axes.set_xticks([])
            axes.set_yticks([])
    return _bytes(figure, format)


def heads_plot(measures: Mapping[str, ArrayLike], *, format: ImageFormat = "svg") -> bytes:
    """A number of every attention head, (layers, heads) for each of `measures`, as tables with colours of their own."""
    tables = {name: np.asarray(values, dtype=float) for name, values in measures.items()}
    layers, heads = next(iter(tables.values())).shape
    figure = _figure(1.1 + 0.55 * heads, len(tables) * (0.75 + 0.34 * layers))
    for axes, (name, values) in zip(figure.subplots(len(tables), 1, squeeze=False)[:, 0], tables.items(), strict=True):
        axes.imshow(values, cmap=_blues(), aspect="auto", interpolation="nearest")
        middle = (values.min() + values.max()) / 2
        for (layer, head), value in np.ndenumerate(values):
            colour = "white" if value > middle else INK
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7.5)
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        axes.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
        axes.set_yticks(range(layers), [str(layer + 1) for layer in range(layers)])
        axes.set_ylabel("layer", color=INK, fontsize=9)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    axes.set_xlabel("head", color=INK, fontsize=9)
    return _bytes(figure, format)


def signals_plot(signals: Mapping[str, tuple[NDArray[Any], int]], *, format: ImageFormat = "png") -> bytes:
    """Log-magnitude spectrograms of signals (samples, rate in Hz), one below the other in the same colours: windows of 32 ms, 80 dB below the loudest."""
    figure = _figure(7.2, 0.5 + 1.5 * len(signals))
    panels = figure.subplots(len(signals), 1, sharex=True, squeeze=False)[:, 0]
    pictures = [_decibels(samples.astype(np.float64), rate) for samples, rate in signals.values()]
    top = max(float(picture.max()) for picture in pictures)
    for axes, (name, (samples, rate)), picture in zip(panels, signals.items(), pictures, strict=True):
        extent = (0.0, len(samples) / rate, 0.0, rate / 2000)
        axes.imshow(picture, cmap="magma", vmin=top - 80, vmax=top, origin="lower", aspect="auto", extent=extent)
        axes.set_title(_short(name, 60), fontsize=9, color=INK, loc="left", pad=3)
        axes.set_ylabel("kHz", color=INK, fontsize=8)
        axes.tick_params(colors=INK, labelsize=8, length=3, width=0.6)
    panels[-1].set_xlabel("s", color=INK, fontsize=9)
    return _bytes(figure, format)


def tracks_plot(
    utterances: Mapping[str, Mapping[str, ArrayLike]], *, period: float, format: ImageFormat = "png"
) -> bytes:
    """F0 tracks (frames,) in Hz by utterance and by what they are of, one panel an utterance; `period` seconds between values, 0 where unvoiced."""
    figure = _figure(7.2, 0.5 + 1.7 * len(utterances))
    panels = figure.subplots(len(utterances), 1, squeeze=False)[:, 0]
    for axes, (name, tracks) in zip(panels, utterances.items(), strict=True):
        for number, (what, track) in enumerate(tracks.items()):
            values = np.asarray(track, dtype=float)
            seconds = period * np.arange(len(values))
            axes.plot(
                seconds, np.where(values > 0, values, np.nan), color=SERIES[number], lw=1.6, alpha=0.8, label=what
            )
        axes.set_title(_short(name, 60), fontsize=9, color=INK, loc="left", pad=3)
        _finish(axes, "", "F0 (Hz)")
    panels[0].legend(fontsize=8, frameon=False, loc="upper right")
    panels[-1].set_xlabel("s", color=INK, fontsize=9)
    return _bytes(figure, format)


def _decibels(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """(bins, frames): at most about a thousand frames."""
    size = max(16, round(0.032 * rate))
    padded = np.pad(samples, size // 2 + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[:: max(size // 4, len(samples) // 1000)]
    magnitude = np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)).T
    decibels: NDArray[np.float64] = 20 * np.log10(np.maximum(magnitude, 1e-8))
    return decibels


def _layer_axis(axes: Axes, layers: Sequence[str]) -> None:
    axes.set_xticks(range(len(layers)), [_short(layer) for layer in layers], rotation=90 if len(layers) > 8 else 0)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9, length=3, width=0.6)
    axes.grid(axis="y", color=LIGHT, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def _bytes(figure: Figure, format: ImageFormat) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    metadata: Mapping[str, Any] = {"Date": None} if format == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "headwater", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=format, dpi=150, metadata=dict(metadata))
    return buffer.getvalue()


def _blues() -> Any:
    import matplotlib

    return matplotlib.colormaps["Blues"].with_extremes(bad="#F3F4F6")


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean over a centred window of about `width`, over fewer values at both ends."""
    half = max(1, width // 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def _short(name: str, size: int = 18) -> str:
    return name if len(name) <= size else name[: size - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
