"""`headwater doctor`: what is installed here, and what that means."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, util

import headwater
from headwater.download import offline, standing
from headwater.paths import cache_root
from headwater.registry import upstreams

REQUIRED = (
    "torch",
    "numpy",
    "pydantic",
    "PyYAML",
    "soundfile",
    "soxr",
    "safetensors",
    "transformers",
    "filelock",
    "tqdm",
    "tensorboardX",
    "matplotlib",
    "scipy",
)
OPTIONAL = {
    "espeakng_loader": "the demo corpus: pip install 'headwater[demo]'",
    "pystoi": "STOI of separated speech: pip install 'headwater[separation]'",
    "pesq": "PESQ of separated speech: pip install 'headwater[separation]'",
    "sounddevice": "a microphone for --stream: pip install 'headwater[stream]'",
    "kaldi_native_fbank": "bench/fbank.py: pip install 'headwater[bench]'",
}


def examine() -> int:
    """Print a line for each thing; 0 when nothing required is missing, else 1."""
    print(
        f"headwater {headwater.__version__}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} processors"
    )
    missing = 0
    for name in REQUIRED:
        try:
            print(f"ok       {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing += 1
            print(f"MISSING  {name}: pip install headwater")
    for module, use in OPTIONAL.items():
        print(f"ok       {module}" if util.find_spec(module) else f"absent   {module}, needed for {use}")
    if not missing:
        import soundfile
        import torch

        formats = ", ".join(sorted({"WAV", "FLAC", "OGG", "MP3"} & set(soundfile.available_formats())))
        print(f"ok       libsndfile {soundfile.__libsndfile_version__} reads {formats}")
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        print(
            f"device   {', '.join(devices) if devices else 'no GPU; everything runs on the CPU'} ({torch.get_num_threads()} threads)"
        )
    cache = cache_root()
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    writable = "writable" if os.access(place, os.W_OK) else "NOT writable: set HEADWATER_CACHE to another folder"
    print(f"cache    {cache} ({free:.0f} GiB free, {writable})")
    print(f"weights  {_weights()}")
    return 1 if missing else 0


def _weights() -> str:
    """Where downloaded weights lie, which are there, and whether more can come."""
    there = [card.name for card in upstreams if standing(card) == "in the cache"]
    held = f"{', '.join(there)}" if there else "none yet"
    more = "HEADWATER_OFFLINE is set: nothing is downloaded" if offline() else "`headwater fetch NAME` downloads more"
    return f"{cache_root() / 'weights'} ({held}; {more})"
