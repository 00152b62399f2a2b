"""`-m predict --stream`: sound in from standard input or a microphone, answers out while it comes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from headwater.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from headwater.train.parts import Prepared

SOURCES = ("stdin", "microphone")
FULL_SCALE = 32768  # of 16 bits
BLOCK_SECONDS = 0.1
Sink = Callable[["np.ndarray"], None]  # signals (C, n) float32


def stream(parts: Prepared, source: str, out: Path | None) -> int:
    """Answer a stream at the task's rate. Without `out`, a folder, signals go to standard output: 32-bit float PCM, interleaved, which cannot clip.

    Ctrl-C ends a recording, all of which is answered; a second one, and that of standard input, ends with what is answered by then. Returns the number of
    samples that came in, which is that of each answer. Raises `UsageError` where the task needs a sound as a whole, `DataError` where none comes in, or the
    last sample is cut off.
    """
    import torch

    answer, rate = parts.task.stream(parts.probe.head), parts.task.spec.sample_rate
    print(f"stream     {source}, {rate} Hz; answers are {1000 * answer.latency / rate:g} ms late", file=sys.stderr)
    for note in parts.task.notes:
        print(f"note       {note}", file=sys.stderr)
    size, taken = max(1, round(BLOCK_SECONDS * rate)), 0
    if source == "stdin" and sys.stdin is None:
        raise UsageError("standard input is closed, and the stream comes from there; pipe 16-bit PCM into it")
    if out is None and sys.stdout is None:
        raise UsageError("standard output is closed, and answers go there; give a folder for them with --out FOLDER")
    heard = microphone(rate, size) if source == "microphone" else pcm(sys.stdin.buffer, size)
    with ExitStack() as stack:
        sink = to_files(out, rate, stack) if out is not None else to_pipe(sys.stdout.buffer)
        with suppress(KeyboardInterrupt), closing(heard):
            for block in heard:
                taken += len(block)
                sink(answer.push(torch.from_numpy(block).to(parts.device)).cpu().numpy())
        if not taken:
            raise DataError(f"{source}: no samples came in; 16-bit mono PCM at {rate} Hz is needed")
        sink(answer.finish().cpu().numpy())
    return taken


def pcm(source: BinaryIO, size: int) -> Generator[np.ndarray, None, None]:
    """Blocks of at most `size` samples (n,) float32 of 16-bit little-endian mono PCM, as soon as they are there."""
    import numpy as np

    held = b""
    # A pipe gives what it has: waiting for whole blocks would make answers late.
    read = getattr(source, "read1", source.read)
    while chunk := read(2 * size):
        held += chunk
        whole = len(held) // 2 * 2
        if whole:
            yield np.frombuffer(held[:whole], "<i2").astype(np.float32) / FULL_SCALE
        held = held[whole:]
    if held:
        raise DataError("standard input ends in the middle of a sample: 16-bit PCM has an even number of bytes")


def microphone(rate: int, size: int) -> Generator[np.ndarray, None, None]:
    """Blocks (size,) float32 from the default input, all until Ctrl-C. Says at the end whether sound was lost."""
    from importlib import import_module
    from queue import SimpleQueue

    try:
        sounddevice = import_module("sounddevice")
    except (ImportError, OSError) as error:
        raise UsageError(
            f"a microphone needs the package sounddevice and PortAudio: pip install 'headwater[stream]' ({error})"
        ) from None
    # Its `put` may interrupt its `get`, as that of other queues may not.
    waiting: SimpleQueue[np.ndarray | None] = SimpleQueue()
    lost = 0

    # It only hands over: what takes longer loses samples.
    def hear(block: np.ndarray, frames: int, time: Any, status: Any) -> None:
        nonlocal lost
        lost += bool(status.input_overflow)
        waiting.put(block[:, 0].copy())

    try:
        with (
            ctrl_c(lambda: waiting.put(None)),
            sounddevice.InputStream(samplerate=rate, channels=1, blocksize=size, dtype="float32", callback=hear),
        ):
            while (block := waiting.get()) is not None:
                yield block
    except sounddevice.PortAudioError as error:
        raise UsageError(f"no sound from the microphone: {error}") from None
    finally:
        if lost:
            print(
                f"note       sound from the microphone was lost {lost} times: this machine took it too late",
                file=sys.stderr,
            )


@contextmanager
def ctrl_c(ended: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `ended`, and interrupts nothing; a second one does."""

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        ended()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def to_pipe(target: BinaryIO) -> Sink:
    """Interleaved 32-bit float PCM."""

    def write(signals: np.ndarray) -> None:
        target.write(signals.T.astype("<f4").tobytes())
        target.flush()

    return write


def to_files(folder: Path, rate: int, stack: ExitStack) -> Sink:
    """`source1.wav`, `source2.wav`, ...: they grow as answers come, and get their names when the stream ends."""
    from headwater.audio.write import WavWriter

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: is a file; answers to a stream go into a folder")
    writers: list[WavWriter] = []

    def tell(kind: Any, error: Any, trace: Any) -> None:
        for writer in writers if kind is None else ():
            if writer.note:
                print(f"note       {writer.note}", file=sys.stderr)

    stack.push(tell)

    def write(signals: np.ndarray) -> None:
        while len(writers) < len(signals):
            writers.append(stack.enter_context(WavWriter(folder / f"source{len(writers) + 1}.wav", rate)))
        for writer, source in zip(writers, signals, strict=True):
            writer.write(source)

    return write
