"""Standard input and output as a unix socket, for machines whose SSH server forwards no sockets.

``python -m skyward.node.bridge <socket>``. Ends with either side. One thread a direction: each may have to
wait for the other side without holding up what goes the other way.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from skyward.link.agentconfig import BRIDGED

CHUNK = 1 << 18


def main() -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(sys.argv[1])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
    os.write(2, BRIDGED)
    threading.Thread(target=_inwards, args=(sock,), daemon=True).start()
    while data := sock.recv(CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


def _inwards(sock: socket.socket) -> None:
    try:
        while data := os.read(0, CHUNK):
            sock.sendall(data)
    except OSError:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
