"""The command lines of the scripts in `preprocess/`. Flags are S3PRL's; what its scripts ask on the terminal is an argument here."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headwater.errors import UsageError

_NAME = re.compile(r"[\w.+=-]+")


def preprocess_libri(arguments: Sequence[str]) -> int:
    """Acoustic features of LibriSpeech, a folder and a list for each of its subsets."""
    parser = _feature_parser(preprocess_libri, data="./data/LibriSpeech", feature_type="mel", delta=True)
    return _preprocess(parser.parse_args(arguments), prefix="libri", reader="librispeech")


def preprocess_timit(arguments: Sequence[str]) -> int:
    """Acoustic features of TIMIT, a folder and a list for train and test each."""
    parser = _feature_parser(preprocess_timit, data="./data/timit", feature_type="mel", delta=True)
    return _preprocess(parser.parse_args(arguments), prefix="timit", reader="timit")


def preprocess_any(arguments: Sequence[str]) -> int:
    """Acoustic features of any corpus that headwater reads: a list, or a folder of audio."""
    parser = _feature_parser(preprocess_any, data=None, feature_type="fbank", delta=False)
    parser.add_argument(
        "--audio_extension", "--audio_extention", metavar="SUFFIX", help="Take only files that end so, such as .flac."
    )
    parser.add_argument(
        "--reader", default="auto", help="How the corpus is read, as -o data.reader. Default: found out."
    )
    return _preprocess(parser.parse_args(arguments), prefix="NewData")


def ark2libri(arguments: Sequence[str]) -> int:
    """Kaldi archives of LibriSpeech features (dump_fmllr_cmvn.sh, ...) into a folder of features."""
    return _from_archives(ark2libri, arguments, "libri_{}_cmvn", "fmllr", lambda key: key.split("-")[0])


def ark2timit(arguments: Sequence[str]) -> int:
    """Kaldi archives of TIMIT features into a folder of features."""
    return _from_archives(ark2timit, arguments, "timit_{}_cmvn", "fmllr", lambda key: key.split("_")[0])


def ark2voxceleb(arguments: Sequence[str]) -> int:
    """Kaldi archives of VoxCeleb features into a folder of features."""
    return _from_archives(ark2voxceleb, arguments, "voxceleb_{}_kaldi", "mfcc", lambda key: re.split("[-/]", key)[0])


def timit2ark(arguments: Sequence[str]) -> int:
    """A folder of features, of TIMIT or any other corpus, into Kaldi archives: GROUP/feats.ark, feats.scp and utt2spk."""
    from headwater.preprocess.archives import write_archives

    parser = _parser(timit2ark)
    _paths(parser, data=None, output=None, what="the folder of features")
    args = parser.parse_args(arguments)
    _need("kaldiio")
    count = write_archives(args.data_path, args.output_path)
    print(f"{count} matrices written below {args.output_path}")
    return 0


def generate_len_for_bucket(arguments: Sequence[str]) -> int:
    """The lengths of all utterances in samples at 16 kHz, a list for each subset, the longest first."""
    from headwater.preprocess.corpora import read_groups
    from headwater.preprocess.lengths import write_lengths

    parser = _parser(generate_len_for_bucket)
    add = parser.add_argument
    add("-i", "--input_data", "--data_root", required=True, type=Path, metavar="PATH", help="The corpus.")
    add(
        "-o",
        "--output_path",
        default=Path("./data"),
        type=Path,
        metavar="FOLDER",
        help="Where NAME goes. Default: ./data",
    )
    add("-a", "--audio_extension", "--audio_extention", default=".flac", metavar="SUFFIX", help="Default: .flac")
    add("-n", "--name", default="len_for_bucket", help="The folder of the lists. Default: len_for_bucket")
    add("--n_jobs", type=int, help="Accepted for S3PRL's command lines; headers are read by a few threads in any case.")
    _common(parser)
    args = parser.parse_args(arguments)
    folder = args.output_path / _plain(args.name)
    chosen = read_groups(_there(args.input_data), splits=args.splits, extension=args.audio_extension)
    root = args.input_data.absolute()
    files, left_out = write_lengths(chosen, root, folder, skip_bad=args.skip_bad_audio)
    for line in (*(f"left out: {reason}" for reason in left_out), *files):
        print(line)
    return 0


def preprocess_alignment(arguments: Sequence[str]) -> int:
    """Montreal alignments (lines `start end phone`, .lab or TextGrid files) into labels every 10 ms: `-o data.labels=FOLDER/phones.txt`."""
    from headwater.preprocess.alignments import lengths_of, read_alignments, write_labels
    from headwater.preprocess.corpora import read_groups

    parser = _parser(preprocess_alignment)
    _paths(parser, data="./data/libri_alignment", output="./data/libri_phone", what="the folder of alignments")
    parser.add_argument(
        "--audio_path", type=Path, metavar="PATH", help="The corpus, whose lengths the labels then fill to the end."
    )
    parser.add_argument("--tier", default="phones", help="The tier of TextGrids. Default: phones")
    parser.add_argument("--splits", nargs="+", default=[], metavar="NAME", help="Sub-folders to take. Default: all.")
    args = parser.parse_args(arguments)
    lengths = None
    if args.audio_path is not None:
        lengths = lengths_of([utterance for utterance, _ in read_groups(_there(args.audio_path))])
    labels = read_alignments(args.data_path, splits=args.splits, num_samples=lengths, tier=args.tier)
    for note in labels.notes:
        print(note)
    print(f"{write_labels(labels, args.output_path)}: {len(labels.labels)} utterances, {labels.num_classes} classes")
    return 0


def _parser(command: Callable[..., int]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"preprocess/{command.__name__}.py", description=command.__doc__, allow_abbrev=False
    )


def _paths(parser: argparse.ArgumentParser, *, data: str | None, output: str | None, what: str) -> None:
    for flag, default, text in (("--data_path", data, what), ("--output_path", output, "where the result goes")):
        said = f"Path to {text}." if flag == "--data_path" else f"The folder {text}."
        parser.add_argument(
            flag,
            type=Path,
            default=None if default is None else Path(default),
            required=default is None,
            metavar="PATH",
            help=said + ("" if default is None else f" Default: {default}"),
        )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--splits", nargs="+", default=[], metavar="NAME", help="Subsets or sub-folders to take. Default: all."
    )
    parser.add_argument("--skip_bad_audio", action="store_true", help="Leave out what cannot be used, and say so.")


def _feature_parser(
    command: Callable[..., int], *, data: str | None, feature_type: str, delta: bool
) -> argparse.ArgumentParser:
    from headwater.preprocess.acoustic import FEATURE_TYPES

    parser = _parser(command)
    _paths(parser, data=data, output="./data", what="the corpus")
    add = parser.add_argument
    add("--feature_type", choices=FEATURE_TYPES, default=feature_type, help=f"Default: {feature_type}")
    add(
        "--delta",
        type=boolean,
        default=None,
        metavar="BOOL",
        help=f"Whether slopes are appended. Default: {delta}, and never for linear features.",
    )
    add(
        "--delta_delta",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="Whether slopes of slopes are. Default: False",
    )
    add(
        "--apply_cmvn",
        type=boolean,
        default=True,
        metavar="BOOL",
        help="Whether mean and variance over each utterance become 0 and 1. Default: True",
    )
    add("--n_jobs", type=int, default=-1, metavar="N", help="Processes; -1 is one for each core. Default: -1")
    add(
        "--name",
        default="None",
        help="The folder in --output_path. Default: made of corpus and features, such as libri_mel160",
    )
    add("--resample", action="store_true", help="Resample audio of other rates to 16 kHz in the place of refusing it.")
    add(
        "--channel",
        type=channel,
        default="single",
        help="single (more channels are an error), mean, or a number from 0. Default: single",
    )
    _common(parser)
    parser.set_defaults(delta_by_default=delta)
    return parser


def _preprocess(args: argparse.Namespace, *, prefix: str, reader: str = "auto") -> int:
    from headwater.preprocess.acoustic import Acoustic
    from headwater.preprocess.corpora import read_groups
    from headwater.preprocess.features import preprocess
    from headwater.preprocess.folder import FeatureFolder

    _need("librosa")
    delta = args.delta_by_default and args.feature_type != "linear" if args.delta is None else args.delta
    acoustic = Acoustic(args.feature_type, delta, args.delta_delta, args.apply_cmvn)
    source = _there(args.data_path)
    chosen = read_groups(
        source,
        reader=getattr(args, "reader", reader),
        splits=args.splits,
        extension=getattr(args, "audio_extension", None),
    )
    name = f"{prefix}_{acoustic.about.kind}" if args.name == "None" else _plain(args.name)
    settings: dict[str, Any] = {**acoustic.settings, "channel": args.channel}
    folder = FeatureFolder(args.output_path / name, acoustic.about, settings, source.name)
    outcome = preprocess(
        chosen,
        acoustic,
        folder,
        num_processes=_processes(args.n_jobs),
        resample=args.resample,
        channel=args.channel,
        skip_bad=args.skip_bad_audio,
    )
    for reason in outcome.left_out:
        print(f"left out: {reason}")
    about = acoustic.about
    print(
        f"{folder.path}: {about.kind}, {about.dim} dims; {outcome.made} utterances made, {outcome.there} were there already"
    )
    return 0


def _from_archives(
    command: Callable[..., int], arguments: Sequence[str], name: str, kind: str, speaker_of: Callable[[str], str]
) -> int:
    from headwater.config import FeatureSet
    from headwater.preprocess.archives import convert, find_splits
    from headwater.preprocess.folder import FeatureFolder
    from headwater.settings import validate

    parser = _parser(command)
    _paths(parser, data=None, output="./data", what="the folder of archives, with a sub-folder for each split")
    add = parser.add_argument
    add(
        "--data_type",
        default=kind,
        metavar="NAME",
        help=f"What the features are, such as fmllr, mfcc or fbank. Default: {kind}",
    )
    add("--name", default="None", help=f"The folder in --output_path. Default: {name.format('TYPE')}")
    add("--splits", nargs="+", default=[], metavar="NAME", help="Sub-folders to take. Default: all that hold archives.")
    add("--stride", type=int, default=160, help="Samples between frames. Default: 160, Kaldi's 10 ms at 16 kHz")
    add(
        "--offset",
        type=float,
        default=200.0,
        help="The centre of the first frame in samples. Default: 200, Kaldi's 25 ms window at 16 kHz",
    )
    add("--sample_rate", type=int, default=16000, help="In Hz. Default: 16000")
    args = parser.parse_args(arguments)
    _need("kaldiio")
    target = args.output_path / (name.format(_plain(args.data_type)) if args.name == "None" else _plain(args.name))
    time = {"sample_rate": args.sample_rate, "stride": args.stride, "offset": args.offset}

    def folder(dim: int) -> FeatureFolder:
        about = validate(FeatureSet, {"kind": args.data_type, "dim": dim, **time})
        return FeatureFolder(target, about, {}, _there(args.data_path).name)

    made, count = convert(find_splits(args.data_path, args.splits), folder, speaker_of)
    print(f"{made.path}: {made.features.kind}, {made.features.dim} dims; {count} utterances")
    return 0


def boolean(word: str) -> bool:
    """S3PRL's True and False, as words."""
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")
    return word.lower() == "true"


def channel(word: str) -> str | int:
    """single, mean or a number."""
    if word not in ("single", "mean") and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is neither single, mean nor a number")
    return int(word) if word.isdecimal() else word


def _processes(asked: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked == 0 or asked < -1:
        raise UsageError(f"--n_jobs {asked}: give the number of processes, or -1 for one a core")
    return cores if asked == -1 else asked


def _plain(name: str) -> str:
    """A name that stays in the folder it is meant for."""
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise UsageError(f"{name!r} cannot be the name of a folder here: letters, digits and _ . + = - are allowed")
    return name


def _there(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"there is no data at {path}")
    return path


def _need(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"this needs the package {package}: pip install 'headwater[preprocess]', or pip install {package}"
        )
