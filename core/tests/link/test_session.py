"""A stream over connections that are cut anywhere: nothing is lost, nothing doubled, nothing kept for
ever.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from skyward.link.frames import ACK, U64, Splitter, frame
from skyward.link.session import ACK_EVERY, Inbox, Outbox

HEADER = 5

frames_sent = st.lists(st.binary(max_size=300), max_size=30)
cuts = st.lists(st.integers(0, 4000), max_size=12)


@dataclass
class KeepingReader:
    """Goes on in the middle of a frame, as a worker does: it keeps what it has of it."""

    inbox: Inbox = field(default_factory=Inbox)
    splitter: Splitter = field(default_factory=Splitter)
    got: list[bytes] = field(default_factory=list)

    def connect(self) -> int:
        return self.inbox.received

    def read(self, data: bytes) -> None:
        self.got += [bytes(body) for _, body in self.splitter.feed(data)]
        self.inbox.count(len(data))


class ForgettingReader(KeepingReader):
    """Starts anew with each connection, as the client does: it counts whole frames."""

    def connect(self) -> int:
        self.splitter = Splitter()
        return self.inbox.received

    def read(self, data: bytes) -> None:
        for _, body in self.splitter.feed(data):
            self.got.append(bytes(body))
            self.inbox.count(HEADER + len(body))


def transfer(reader: KeepingReader, pushes: list[bytes], steps: list[int], pieces: int) -> Outbox:
    """Send everything, cutting the connection each time that many bytes more have arrived."""
    outbox = Outbox()
    for data in pushes:
        outbox.push(data)
    for step in [*steps, None]:
        stream = b"".join(data for data, _ in outbox.since(reader.connect()))
        arriving = stream if step is None else stream[:step]
        for start in range(0, len(arriving), pieces):
            reader.read(arriving[start : start + pieces])
    return outbox


@given(frames_sent, cuts, st.integers(1, 500), st.booleans(), st.integers(1, 5))
def test_whatever_is_cut_where_each_frame_comes_once(
    bodies: list[bytes], steps: list[int], pieces: int, keeps: bool, together: int
) -> None:
    frames = [frame(9, body) for body in bodies]
    pushes = [b"".join(frames[start : start + together]) for start in range(0, len(frames), together)]
    reader = KeepingReader() if keeps else ForgettingReader()
    outbox = transfer(reader, pushes, steps, pieces)
    assert reader.got == bodies
    assert reader.inbox.received == sum(map(len, frames))
    assert outbox.since(reader.inbox.received) == []


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.integers(0, 60)), max_size=40))
def test_a_stream_that_grows_while_it_is_cut(rounds: list[tuple[bytes, int]]) -> None:
    """Some is sent, some of it arrives, the connection is cut; again and again."""
    outbox, reader = Outbox(), ForgettingReader()
    for body, arrives in rounds:
        outbox.push(frame(9, body))
        stream = b"".join(data for data, _ in outbox.since(reader.connect()))
        reader.read(stream[:arrives])
    reader.read(b"".join(data for data, _ in outbox.since(reader.connect())))
    assert reader.got == [body for body, _ in rounds]


@given(st.lists(st.integers(1, 3 * ACK_EVERY), max_size=20))
def test_acknowledgements_come_often_enough_and_no_more(sizes: list[int]) -> None:
    inbox, said = Inbox(), 0
    for size in sizes:
        acknowledgement = inbox.count(size)
        if acknowledgement is not None:
            ((kind, body),) = Splitter().feed(acknowledgement)
            assert kind == ACK
            now = U64.unpack(body)[0]
            assert now == inbox.received
            assert now - said >= ACK_EVERY
            said = now
        assert inbox.received - said < ACK_EVERY
    assert inbox.received == sum(sizes)


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=20), st.data())
def test_what_was_acknowledged_is_let_go(pushes: list[bytes], data: st.DataObject) -> None:
    outbox, total = Outbox(), b"".join(pushes)
    for push in pushes:
        outbox.push(push)
    received = 0
    for _ in range(3):
        received = data.draw(st.integers(received, len(total)))
        outbox.acknowledge(received)
        # An old acknowledgement that comes late changes nothing.
        outbox.acknowledge(data.draw(st.integers(0, received)))
        assert b"".join(part for part, _ in outbox.since(received)) == total[received:]


def test_descriptors_go_again_until_their_first_byte_has_arrived() -> None:
    outbox = Outbox()
    fd = os.open(os.devnull, os.O_RDONLY)
    outbox.push(b"before")
    outbox.push(b"blob!", (fd,))
    assert outbox.since(0) == [(b"before", ()), (b"blob!", (fd,))]
    assert outbox.since(6) == [(b"blob!", (fd,))]
    assert outbox.since(7) == [(b"lob!", ())]
    os.fstat(fd)  # open while any of it may be needed
    assert outbox.since(11) == []
    assert not is_open(fd)


def test_closing_lets_go_of_descriptors() -> None:
    outbox = Outbox()
    fds = tuple(os.open(os.devnull, os.O_RDONLY) for _ in range(3))
    outbox.push(b"one", fds[:1])
    outbox.push(b"two", fds[1:])
    outbox.close()
    assert not any(map(is_open, fds))
    outbox.close()


def test_descriptors_ask_for_an_acknowledgement_at_once() -> None:
    inbox = Inbox()
    assert inbox.count(10) is None
    assert inbox.count(3, now=True) == frame(ACK, U64.pack(13))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
