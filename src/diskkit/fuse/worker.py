# SPDX-License-Identifier: Apache-2.0
"""A thread that reads the kernel's requests and answers each, whatever happens.

One thread at a time waits for requests. What takes long it answers after another has taken its
turn; what is quick it answers at once, since waking another thread would take longer than the work.
"""

from __future__ import annotations

import errno
import os
from struct import Struct
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from diskkit.errors import StorageError
from diskkit.fuse import wire
from diskkit.fuse.wire import Op

if TYPE_CHECKING:
    from diskkit.fuse.tree import OpenFile

QUICK = 200e-6
"""Seconds up to which a request counts as quick: far more than waking a thread takes."""
SHORT = 16 << 10
"""Bytes that a quick request moves at most."""
_READ = Struct("=IIQ24xQQI")
"""A whole READ: length, opcode, unique; handle, offset, size."""
_READ_SIZE = 80


class Answering(Protocol):
    """What knows the answers."""

    def body(self, request: wire.Request, raw: memoryview) -> bytes | None:
        """The answer's body; None for what nobody answers. Raises whatever goes wrong."""
        ...

    def opened(self, number: int) -> OpenFile:
        """The file under a number. Raises `OSError`."""
        ...

    def error_number(self, error: BaseException) -> int:
        """What a failure is to the caller; never raises."""
        ...

    def tell(self, text: str) -> None:
        """Warn; never raises."""
        ...


class Turns:
    """What the threads of one session share."""

    def __init__(self, device: int) -> None:
        """Over an open /dev/fuse, greeted."""
        self.lock = Lock()
        self.quick = True
        """Whether the last small request was."""
        self.device = device


class Worker:
    """One thread's buffers, and what it does with them."""

    def __init__(self, turns: Turns, answering: Answering) -> None:
        """Take the room it needs, once."""
        self._turns = turns
        self._answering = answering
        self._device = turns.device
        self._buffer = memoryview(bytearray(wire.MAX_WRITE + wire.HEAD))
        self._out = memoryview(bytearray(wire.OUT.size + wire.MAX_WRITE))

    def run(self) -> None:
        """Answer until the mount is gone. Raises `StorageError` if the device fails."""
        turns = self._turns
        while True:
            turns.lock.acquire()
            leading = True
            try:
                while leading:
                    n = self._next()
                    if not n:
                        return
                    length, opcode, unique, handle, offset, size = _READ.unpack_from(self._buffer)
                    reads = opcode == Op.READ and n == length == _READ_SIZE
                    short = (size if reads else n) <= SHORT
                    if not (short and turns.quick):
                        turns.lock.release()
                        leading = False
                    began = perf_counter()
                    if reads:
                        self._read(unique, handle, offset, size)
                    else:
                        self._respond(self._buffer[:n])
                    if short:
                        turns.quick = perf_counter() - began < QUICK
            finally:
                if leading:
                    turns.lock.release()

    def _next(self) -> int:
        """The length of the next message; 0 when the mount is gone."""
        while True:
            try:
                return os.readv(self._device, [self._buffer])
            except OSError as error:
                # ECONNABORTED: it went while a request was on its way here.
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return 0
                if error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    text = error.strerror or "cannot be read"
                    raise StorageError("/dev/fuse", text, errno=error.errno) from None
                # ENOENT: the request was taken back

    # --- answers ------------------------------------------------------------------------------

    def _read(self, unique: int, handle: int, offset: int, size: int) -> None:
        """READ is what there is most of: its bytes go straight behind the head of the answer."""
        out, head = self._out, wire.OUT.size
        try:
            if size > wire.MAX_WRITE:
                raise OSError(errno.EINVAL, "more than was agreed on")  # noqa: TRY301 - an answer
            n = head + self._answering.opened(handle).read_into(offset, out[head : head + size])
            wire.OUT.pack_into(out, 0, n, 0, unique)
            self._send(out[:n])
        except BaseException as error:
            self._refuse(unique, self._answering.error_number(error))

    def _respond(self, raw: memoryview) -> None:
        unique = 0
        try:
            request = wire.request(raw)
            unique = request.unique
            wire.check_length(request, raw)
            body = self._answering.body(request, raw)
            if body is not None:
                self._send(wire.OUT.pack(wire.OUT.size + len(body), 0, unique) + body)
        except BaseException as error:
            number = self._answering.error_number(error)
            if unique:
                self._refuse(unique, number)

    def _send(self, message: bytes | memoryview) -> None:
        try:
            os.write(self._device, message)
        except OSError as error:
            # ENOENT: whoever asked was killed meanwhile. ENODEV: the mount is gone.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _refuse(self, unique: int, number: int) -> None:
        try:
            self._send(wire.refusal(unique, number))
        except OSError as error:
            self._answering.tell(f"/dev/fuse: {error.strerror}")
