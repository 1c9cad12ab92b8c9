"""Lines on a disk that may be full, written by one process and read by the one that delivers them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Place: TypeAlias = tuple[int, int]  # segment, and offset in it

SEGMENT_BYTES = 8 << 20  # a file that is delivered to its end is deleted: the disk holds what is pending, not the run
_CURSOR = "cursor"


class Journal:
    """Appends lines to segments, `00000001.jsonl` and so on, and remembers in `cursor` what has been delivered.

    A line is written with one system call, so what was taken survives the death of the process. Reading needs no
    writer: it begins at the cursor, in this process or in a later one.

    Args:
        folder: Where it is; everything in it is for its user alone.
        segment_bytes: Size at which a segment ends.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._file: int | None = None
        self._segment, self._size, self._is_torn = 1, 0, False

    # Writing ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Makes the folder ready for `write`.

        Raises:
            OSError: It takes no file.
        """
        (self.folder / _CURSOR).touch(0o600)  # now: a disk that is full later may refuse a new file
        self._open_segment(self._segment)

    @property
    def is_open(self) -> bool:
        """Whether lines can be written."""
        return self._file is not None

    def write(self, line: bytes) -> None:
        """Appends a line, whole or not at all, to a journal that is open.

        Raises:
            OSError: The disk did not take it.
        """
        try:
            if self._size >= self._segment_bytes:
                self._open_segment(self._segment + 1)
            data = b"\n" + line if self._is_torn else line
            written = os.write(self._file, data)  # type: ignore[arg-type]
            if written < len(data):
                raise OSError(f"the disk took {written} of {len(data)} bytes")
        except OSError:
            self._undo()
            raise
        self._size += len(data)
        self._is_torn = False

    def _open_segment(self, segment: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path(segment), flags, 0o600)  # where this fails, the one before goes on
        self.close()
        self._file, self._segment, self._size = file, segment, os.fstat(file).st_size

    def _undo(self) -> None:
        try:
            os.ftruncate(self._file, self._size)  # type: ignore[arg-type]
        except (OSError, TypeError):
            self._is_torn = True  # the next line starts a new one; readers skip the half one

    def close(self) -> None:
        """Ends writing; reading goes on."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # Reading ----------------------------------------------------------------------------------------------------------

    def lines(self, place: Place) -> Iterator[tuple[Place, bytes]]:
        """Complete lines from `place` on, each with the place after it."""
        segment, offset = place
        while True:
            # Asked before the segment is read: its writer goes on to the next one only after its last line.
            later = [number for number in self._segments() if number > segment]
            with contextlib.suppress(FileNotFoundError), self._path(segment).open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield (segment, offset), line
            if not later:
                return
            segment, offset = later[0], 0

    def cursor(self) -> Place:
        """The place after what has been delivered."""
        with contextlib.suppress(OSError, ValueError):
            segment, offset = (self.folder / _CURSOR).read_text().split()
            return int(segment), int(offset)
        return 1, 0

    def set_cursor(self, place: Place) -> None:
        """Notes that everything before `place` is delivered, and deletes the segments before it."""
        segment, offset = place
        try:  # in place and of one size, so that a full disk takes it too
            file = os.open(self.folder / _CURSOR, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, f"{segment:08d} {offset:016d}\n".encode(), 0)
            finally:
                os.close(file)
        except OSError:
            return  # it is delivered again by a later process, which finds all of it
        for old in self._segments():
            if old < segment:
                with contextlib.suppress(OSError):
                    self._path(old).unlink()

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.jsonl"))

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:08d}.jsonl"
