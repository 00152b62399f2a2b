"""How every command speaks, and how it ends: its exit code, and words instead of a traceback where the user can do something about it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from headwater.errors import HeadwaterError

# Read by OpenMP when torch is first imported: idle threads that spin make every small operation many times slower where processors are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Command = Callable[[Sequence[str]], int]

# Of glibc's mallopt: memory up to the threshold comes from the heap, and the heap's free top is kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def say(line: str) -> None:
    """A line on standard output, at once."""
    print(line, flush=True)


def keep_memory() -> None:
    """Keep freed memory for the next step of training: given back to the system, every page of a large tensor is cleared anew each time. glibc only."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            allocator = ctypes.CDLL(None)
            allocator.mallopt(M_MMAP_THRESHOLD, 2**30)
            allocator.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def guarded(command: Command, arguments: Sequence[str]) -> int:
    """Run a command. 0 done, 2 usage or configuration, 3 data, 1 anything else; a fault of ours keeps its traceback."""
    keep_memory()
    try:
        return command(arguments)
    except HeadwaterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
        if not full and error.filename is None:
            raise
        advice = "; free some space, or choose another folder with -p" if full else ""
        print(f"error: {error.filename or 'a file'}: {error.strerror}{advice}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: out of memory; lower batch.seconds, batch.size or store.memory_gib", file=sys.stderr)
        return 1
