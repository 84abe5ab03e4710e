"""A packet relay in this process: holds back, slows down or loses what goes to and from one node.

For kernels without the traffic shaper that could delay. The lab's routes lead a node's packets into a tunnel
whose other end is here; what is written back into it goes on its way. One thread a shaped link, which moves
some 0.5 Gbit/s: enough for the links that one wants to be slow.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time

from skyward_testing.testbed.errors import BedError

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES = 65536
BURST = 64
QUEUED_PACKETS = 1000  # then new ones are lost, as in a router


class Shaper:
    """``set`` may change everything at any time; packets that wait keep the time they were given."""

    def __init__(self, card: str, address: str) -> None:
        try:
            self._tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BedError(f"a link can't be shaped without /dev/net/tun: {error.strerror}") from error
        fcntl.ioctl(self._tunnel, TUNSETIFF, struct.pack("16sH22x", card.encode(), IFF_TUN | IFF_NO_PI))
        self._address = socket.inet_aton(address)
        self._rate: float | None = None
        self._delay = 0.0
        self._loss = 0.0
        self._waiting: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._free = {True: 0.0, False: 0.0}
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"testbed-{card}", daemon=True)
        self._thread.start()

    def set(self, *, rate_mbit: float | None, delay_ms: float | None, loss: float | None) -> None:
        """Change what happens to packets; each way has the rate, the delay and the loss to itself."""
        self._rate = rate_mbit * 1e6 / 8 if rate_mbit else None
        self._delay = (delay_ms or 0.0) / 1000
        self._loss = loss or 0.0

    def stop(self) -> None:
        """End the thread; what waits is lost."""
        os.write(self._waker, b"x")
        self._thread.join()
        for fd in (self._tunnel, self._wake, self._waker):
            os.close(fd)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._tunnel, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            self._send()
            timeout = max(0.0, (self._waiting[0][0] - time.monotonic()) * 1000) if self._waiting else None
            ready = [fd for fd, _ in poll.poll(timeout)]
            if self._wake in ready:
                return
            if self._tunnel in ready:
                self._receive()

    def _send(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._write(heapq.heappop(self._waiting)[2])

    def _receive(self) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(self._tunnel, PACKET_BYTES)
            except OSError:  # nothing more for now, or the card is being taken away
                return
            lost = self._loss and random.random() < self._loss
            if lost or len(self._waiting) >= QUEUED_PACKETS:
                continue
            now = due = time.monotonic()
            if self._rate:
                inbound = packet[16:20] == self._address
                due = self._free[inbound] = max(now, self._free[inbound]) + len(packet) / self._rate
            due += self._delay
            if due <= now:
                self._write(packet)
                continue
            self._count += 1
            heapq.heappush(self._waiting, (due, self._count, packet))

    def _write(self, packet: bytes) -> None:
        try:
            os.write(self._tunnel, packet)
        except OSError:
            pass  # as any packet may, it is lost
