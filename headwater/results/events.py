"""TensorBoard's event files, written by who logs: tensorboardX's own thread dies on a full disk, and whoever fills its queue then waits for ever."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

from headwater.errors import HeadwaterError


class Events:
    """Scalars and pictures by step. Records are TFRecords: length, masked CRC of the length, an `Event`, masked CRC of the event."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115 (`close` closes it)
        except OSError as error:
            raise self._failed(error) from None
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """`HeadwaterError` where the file cannot be written."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self._write(Event(wall_time=time.time(), step=step, summary=scalar(tag, value)))

    def add_image(self, tag: str, png: bytes, step: int) -> None:
        """A PNG picture. `HeadwaterError` where the file cannot be written."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        # Width and height stand behind the signature and the head of the first chunk.
        width, height = struct.unpack(">II", png[16:24])
        picture = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=tag, image=picture)])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: object) -> None:
        from tensorboardX.record_writer import masked_crc32c

        def checked(part: bytes) -> bytes:
            return part + struct.pack("<I", masked_crc32c(part))

        content: bytes = event.SerializeToString()  # type: ignore[attr-defined]
        try:
            self._file.write(checked(struct.pack("<Q", len(content))) + checked(content))
        except OSError as error:
            self._file.close()
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> HeadwaterError:
        return HeadwaterError(
            f"{self.path}: cannot be written ({error.strerror}); free some space, then run the same command again"
        )
