"""What the client runs on a node to move files, or to reach a port where the SSH server forwards none.

``python -m skyward.node.courier``; what to do comes as the first message over standard input, because paths
are nobody else's business. Ends with either side.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from skyward.link.filereceive import receive
from skyward.link.filesend import send
from skyward.link.filetalk import CHUNK, FileTrouble, Talk


def main() -> None:
    # What else is printed in this process must not get in between.
    output = os.dup(1)
    os.dup2(2, 1)
    with (
        open(0, "rb", buffering=CHUNK, closefd=False) as reader,
        open(output, "wb", buffering=CHUNK) as writer,
    ):
        talk = Talk(reader, writer)
        try:
            errand = talk.expect("do")
            if errand["what"] == "connect":
                _connect(errand["port"], output)
            else:
                (send if errand["what"] == "send" else receive)(talk, errand["path"], _ignore, _ignore)
        except FileTrouble as trouble:
            talk.tell(trouble)
            os._exit(0)  # what the other end has sent meanwhile is not waited for
        except ConnectionError:
            os._exit(0)


def _ignore(_: int, __: int) -> None:
    """The client counts."""


def _connect(port: int, output: int) -> None:
    """Be a connection to a port of this machine. Says so before the first byte of it."""
    try:
        sock = socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        sys.exit(f"port {port}: {(error.strerror or str(error)).lower()}")
    os.write(output, b"+")
    outwards = threading.Thread(target=_outwards, args=(sock, output))
    outwards.start()
    try:
        while data := os.read(0, CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        os._exit(0)
    outwards.join()
    os._exit(0)


def _outwards(sock: socket.socket, output: int) -> None:
    try:
        while data := sock.recv(CHUNK):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(output, rest) :]
        for fd in (output, 1, 2):  # the SSH server waits for the last of them
            os.close(fd)
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main()
