"""eSpeak NG as a source of speech with phone times, in a process of its own.

The library keeps global state that no call resets (the phase of the pitch flutter, the echo buffer) and seeds its noise
from the clock. So a list of requests is always spoken by a fresh process, in order, with the noise seed set before
each: equal lists give equal samples. This also keeps a C library out of the caller's process. eSpeak NG is GPL-3;
nothing of it is part of this package, the wheel `espeakng-loader` brings it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from headwater.errors import HeadwaterError, UsageError

if TYPE_CHECKING:
    import numpy as np

ADVICE = "install it with `pip install headwater[demo]` (eSpeak NG is free software under GPL-3), or give data of your own with --data"
_CANNOT_LOAD = 3  # exit status of the speaking process
_LONGEST_DATA_PATH = 140  # bytes; the library cuts longer paths off at 160, file names included


@dataclass(frozen=True)
class Request:
    """One sentence to speak. `voice` is eSpeak's name (`en-us+f3`); `rate` in words a minute (80 to 450); `pitch` and
    `pitch_range` 0 to 99, 50 is the voice's own."""

    text: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    seed: int


@dataclass(frozen=True)
class Speech:
    """int16 mono samples; `phones` are (first sample, eSpeak mnemonic without stress marks) in order of time."""

    samples: np.ndarray
    sample_rate: int
    phones: tuple[tuple[int, str], ...]


def speak(requests: Sequence[Request]) -> Iterator[Speech]:
    """The requests' speech in their order, bit for bit the same for the same list.

    Raises
    ------
    UsageError: eSpeak NG is not installed or cannot be loaded.
    HeadwaterError: the speaking process ended early.
    """
    import numpy as np

    if importlib.util.find_spec("espeakng_loader") is None:
        raise UsageError(
            f"the demo corpus is spoken by eSpeak NG, and the package espeakng-loader is not installed: {ADVICE}"
        )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ESPEAK")}
    environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryFile() as script, tempfile.TemporaryFile() as complaints:
        script.write("".join(json.dumps(asdict(request)) + "\n" for request in requests).encode())
        script.seek(0)
        command = [sys.executable, "-m", "headwater.data.espeak"]
        process = subprocess.Popen(command, stdin=script, stdout=subprocess.PIPE, stderr=complaints, env=environment)
        assert process.stdout is not None
        spoken = 0
        try:
            while line := process.stdout.readline():
                head = json.loads(line)
                samples = np.frombuffer(process.stdout.read(2 * head["samples"]), dtype=np.int16)
                yield Speech(samples, head["sample_rate"], tuple((start, name) for start, name in head["phones"]))
                spoken += 1
        finally:
            process.stdout.close()
            if spoken < len(requests):
                process.terminate()
            status = process.wait()
        if status or spoken < len(requests):
            complaints.seek(0)
            reason = complaints.read().decode(errors="replace").strip()[-500:]
            if status == _CANNOT_LOAD:
                raise UsageError(f"eSpeak NG cannot be loaded ({reason}): {ADVICE}")
            raise HeadwaterError(
                f"eSpeak NG stopped after {spoken} of {len(requests)} sentences (exit status {status}): {reason or 'no message'}"
            )


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT, _CHARS_UTF8 = 2, 0x0001, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_LIST_TERMINATED, _PHONEME = 0, 7


class _Engine:
    """The library, initialised. Raises OSError when that fails."""

    def __init__(self, library: str, data: str) -> None:
        self._variants = Path(data, "voices", "!v")
        self._library = ctypes.CDLL(library)
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p,  # text
            ctypes.c_size_t,  # its bytes
            ctypes.c_uint,  # position
            ctypes.c_int,  # position type
            ctypes.c_uint,  # end position
            ctypes.c_uint,  # flags
            ctypes.c_void_p,  # where an identifier goes
            ctypes.c_void_p,  # user data
        ]
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _PHONEME_EVENTS | _DONT_EXIT)
        if self.sample_rate <= 0:
            raise OSError(f"espeak_Initialize found no data in {data}")
        self._pieces: list[bytes] = []
        self._phones: list[tuple[int, str]] = []
        self._callback = _Callback(
            self._receive
        )  # the library holds only its address: the object must outlive the calls
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, events) -> int:  # type: ignore[no-untyped-def]
        index = 0
        while events[index].type != _LIST_TERMINATED:
            event = events[index]
            if event.type == _PHONEME:
                address = ctypes.addressof(event) + _Event.id.offset
                name = ctypes.string_at(address, 8).split(b"\0")[0].decode("utf-8", errors="replace")
                self._phones.append((event.sample, name.lstrip("',%=")))
            index += 1
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, request: Request) -> tuple[bytes, list[tuple[int, str]]]:
        self._pieces.clear()
        self._phones.clear()
        # The library itself takes the plain voice, without a word, where it has no such variant.
        _, plus, variant = request.voice.partition("+")
        known = not plus or (self._variants / variant).is_file()
        if not known or self._library.espeak_SetVoiceByName(request.voice.encode()):
            raise OSError(f"there is no voice {request.voice}")
        for parameter, value in ((_RATE, request.rate), (_PITCH, request.pitch), (_RANGE, request.pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(request.seed)
        text = request.text.encode()
        if self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _CHARS_UTF8, None, None):
            raise OSError(f"espeak_Synth refused {request.text!r}")
        return b"".join(self._pieces), list(self._phones)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers each JSON line with a JSON line and that many int16 samples."""
    import espeakng_loader

    data = espeakng_loader.get_data_path()
    with tempfile.TemporaryDirectory() as folder:
        if len(data.encode()) > _LONGEST_DATA_PATH:
            short = Path(folder) / "espeak-ng-data"
            short.symlink_to(data, target_is_directory=True)
            data = str(short)
        engine = _Engine(espeakng_loader.get_library_path(), data)
        for line in requests:
            samples, phones = engine.speak(Request(**json.loads(line)))
            head = {"samples": len(samples) // 2, "sample_rate": engine.sample_rate, "phones": phones}
            answers.write(json.dumps(head).encode() + b"\n" + samples)
            answers.flush()


def _main() -> int:
    # What the library itself might print goes to stderr, so that it cannot mix with the samples.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _serve(sys.stdin.buffer, answers)
    except (OSError, AttributeError) as error:
        print(error, file=sys.stderr)
        return _CANNOT_LOAD
    return 0


if __name__ == "__main__":
    sys.exit(_main())
