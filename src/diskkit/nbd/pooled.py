# SPDX-License-Identifier: Apache-2.0
"""Requests of one client for a disk that is far away: several are worked on at once.

A disk that answers at once is served faster without: there the threads only wait for each other.
Answers go out in whatever order they are ready, as the protocol allows. What is long, or odd, is
answered by itself when all before it is done.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock, Semaphore
from typing import TYPE_CHECKING

from diskkit.nbd import protocol as p
from diskkit.nbd.transmission import PIECE, Transmission

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.disk import Disk

_ALONE = (p.CACHE, p.BLOCK_STATUS)
_MOST = 16
"""Workers of one client, at most."""


class PooledTransmission(Transmission):
    """The same requests and answers as one by one."""

    def __init__(
        self,
        connection: socket.socket,
        disk: Disk,
        structured: bool,
        contexts: tuple[int, ...],
        warn: Callable[[str], None],
    ) -> None:
        """As many workers as the disk has use for."""
        super().__init__(connection, disk, structured, contexts, warn)
        workers = min(disk.parallel, _MOST)
        self._pool = ThreadPoolExecutor(workers, "nbd-worker")
        self._most = 2 * workers
        self._slots = Semaphore(self._most)
        """One for each request under way: what waits takes memory."""
        self._sending = Lock()

    def run(self, rest: bytes) -> None:
        """Answer requests until the client leaves, and finish those that are under way."""
        try:
            super().run(rest)
        finally:
            self._pool.shutdown(wait=True)

    def _answer_all(self) -> bool:
        while self._end - self._begin >= p.REQUEST.size:
            request = p.unpack_request(self._in, self._begin)
            self._begin += p.REQUEST.size
            if request.command == p.DISC:
                self._wait()
                return False
            wrong = p.refusal(request, self._disk.size, writable=self._disk.writable)
            long = request.command in (p.READ, p.WRITE) and not 0 < request.length <= PIECE
            if wrong or long or request.command in _ALONE:
                self._wait()
                self._answer(request)
                self._send()
                continue
            data = b""
            if request.command == p.WRITE:
                data = bytes(self._payload(request.length))
            self._slots.acquire()
            self._pool.submit(self._work, request, data)
        return True

    def _wait(self) -> None:
        """Until nothing is under way."""
        for _ in range(self._most):
            self._slots.acquire()
        self._slots.release(self._most)

    def _work(self, request: p.Request, data: bytes) -> None:
        try:
            answer = self._answer_to(request, data)
            with self._sending:
                self._socket.sendall(answer)
        except OSError:
            # The client has gone: whoever waits for more of its requests shall know.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        finally:
            self._slots.release()

    def _answer_to(self, request: p.Request, data: bytes) -> bytes | bytearray:
        flags, command, handle, offset, length = request
        try:
            if command == p.READ:
                head = p.DATA_CHUNK.size if self._structured else p.SIMPLE.size
                answer = bytearray(head + length)
                self._disk.read_into(offset, memoryview(answer)[head:])
                if self._structured:
                    fields = (p.CHUNK_MAGIC, p.DONE, p.OFFSET_DATA, handle, length + 8, offset)
                    p.DATA_CHUNK.pack_into(answer, 0, *fields)
                else:
                    p.SIMPLE.pack_into(answer, 0, p.SIMPLE_MAGIC, 0, handle)
                return answer
            wrong = 0
            if command == p.WRITE:
                self._disk.write(offset, data)
                if flags & p.FUA:
                    self._disk.flush()
            else:
                wrong = self._change(request)
        except Exception as error:
            return self._failure(handle, error)
        if wrong:
            return self._refusal(handle, wrong, p.ERROR_NAMES[wrong])
        return p.simple_reply(handle)
