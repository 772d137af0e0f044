# SPDX-License-Identifier: Apache-2.0
"""A thread that reads the kernel's requests and answers each, whatever happens.

One thread at a time waits for requests. What takes long it answers after another has taken its
turn; what is quick it answers at once, since waking another thread would take longer than the work.
Behind a quick answer it looks for the next request for a few microseconds before it goes to sleep:
who reads on and on does not wait for it to wake up.
"""

from __future__ import annotations

import errno
import fcntl
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
LINGER = 50e-6
"""Seconds for which a thread looks for the next request before it sleeps."""
SHORT = 16 << 10
"""Bytes that a quick request moves at most."""
_CLONE = 0x8004E500
_OPEN_AGAIN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
_READ, _WRITE = int(Op.READ), int(Op.WRITE)
"""What nearly all requests are: a member of an enumeration takes longer to look up."""
_TRANSFER = Struct("=IIQ24xQQI")
"""What READ and WRITE begin with: length, opcode, unique; handle, offset, size."""


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
        self.second = _second(device)

    def close(self) -> None:
        """When no thread is left."""
        if self.second is not None:
            os.close(self.second)


def _second(device: int) -> int | None:
    """The same session as a descriptor that never waits; None where that cannot be had."""
    try:
        second = os.open("/dev/fuse", _OPEN_AGAIN)
    except OSError:
        return None
    try:
        fcntl.ioctl(second, _CLONE, device.to_bytes(4, "little"))
    except OSError:
        os.close(second)
        return None
    return second


class Worker:
    """One thread's buffers, and what it does with them."""

    def __init__(self, turns: Turns, answering: Answering) -> None:
        """Take the room it needs, once."""
        self._turns = turns
        self._answering = answering
        self._device = turns.device
        self._buffer = memoryview(bytearray(wire.MAX_WRITE + wire.HEAD))
        self._room = [self._buffer]
        self._out = memoryview(bytearray(wire.OUT.size + wire.MAX_WRITE))

    def run(self) -> None:
        """Answer until the mount is gone. Raises `StorageError` if the device fails."""
        turns, buffer, unpack = self._turns, self._buffer, _TRANSFER.unpack_from
        while True:
            turns.lock.acquire()
            leading, lingering = True, False
            try:
                while leading:
                    n = self._next(lingering=lingering)
                    if not n:
                        return
                    length, opcode, unique, handle, offset, size = unpack(buffer)
                    reads = opcode == _READ and n == length == wire.WRITE_DATA
                    short = (size if reads else n) <= SHORT
                    lingering = short and turns.quick
                    if not lingering:
                        turns.lock.release()
                        leading = False
                    began = perf_counter()
                    if reads:
                        self._read(unique, handle, offset, size)
                    elif opcode == _WRITE and n == length == wire.WRITE_DATA + size:
                        self._write(unique, handle, offset, buffer[wire.WRITE_DATA : n])
                    else:
                        self._respond(buffer[:n])
                    if short:
                        turns.quick = perf_counter() - began < QUICK
            finally:
                if leading:
                    turns.lock.release()

    def _next(self, *, lingering: bool) -> int:
        """The length of the next message; 0 when the mount is gone."""
        turns = self._turns
        if lingering and turns.second is not None:
            self._device = turns.second  # whose requests are answered over it alone
            until = perf_counter() + LINGER
            while perf_counter() < until:
                try:
                    return os.readv(turns.second, self._room)
                except BlockingIOError:
                    os.sched_yield()
                except OSError as error:
                    if error.errno not in (errno.EINTR, errno.ENOENT):
                        break  # the other one says the same
        self._device = turns.device
        while True:
            try:
                return os.readv(turns.device, self._room)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return 0  # the second one: it went just when there was a request
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

    def _write(self, unique: int, handle: int, offset: int, data: memoryview) -> None:
        """WRITE comes next, and who writes little pieces waits for each of them."""
        try:
            taken = self._answering.opened(handle).write(offset, data)
            self._send(wire.wrote(unique, taken))
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
