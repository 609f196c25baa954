"""Read spans of tensors with positioned reads: nothing is mapped, nothing is held, safe from many threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable

from mergec.errors import RunError, path_text
from mergec.io import hub
from mergec.io.tensors import TensorRef


class Reader:
    """Open input files, each opened once, on first use; a file of another size than planned is refused.

    `sizes` maps the planned path of each file to its size in bytes.
    """

    def __init__(self, sizes: Iterable[tuple[str, int]]) -> None:
        self._sizes = dict(sizes)
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def descriptor(self, path: str) -> int:
        """The file descriptor of an input file."""
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = self._open(path)
            return self._descriptors[path]

    def _open(self, path: str) -> int:
        try:
            descriptor = os.open(hub.fetch(path), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise RunError("E410", f"cannot read {path_text(path)}: {error.strerror}") from None
        found, planned = os.fstat(descriptor).st_size, self._sizes.get(path)
        if found != planned:
            os.close(descriptor)
            what = f"{path_text(path)} has {found:,} bytes, it had {planned:,} when the plan was made"
            raise RunError("E411", what, "make a new plan")
        return descriptor

    def advise(self, path: str, begin: int, end: int) -> None:
        """Let the system read bytes [begin, end) of a file now, if it can, for they are needed soon.

        It looks at each page, which takes a while, so it is not asked where both ends are in its cache.
        """
        if hasattr(os, "posix_fadvise"):
            descriptor = self.descriptor(path)
            with contextlib.suppress(OSError):
                if not (_is_cached(descriptor, begin) and _is_cached(descriptor, end - 1)):
                    os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)

    def read(self, ref: TensorRef, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the tensor's bytes from `offset` on, counted from the tensor's begin."""
        descriptor, position = self.descriptor(ref.file), ref.begin + offset
        try:
            while buffer:
                got = os.preadv(descriptor, [buffer], position)
                if got == 0:
                    what = f"{path_text(ref.file)} ended inside {ref.name}"
                    raise RunError("E411", what, "it was changed during the run")
                buffer, position = buffer[got:], position + got
        except OSError as error:
            raise RunError("E410", f"cannot read {ref.name} from {path_text(ref.file)}: {error.strerror}") from None


def _is_cached(descriptor: int, position: int) -> bool:
    """Whether a byte of a file can be read without waiting for a disk; False where the system does not say."""
    try:
        return os.preadv(descriptor, [bytearray(1)], position, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):
        return False
