"""What this computer knows of its pools: a file each, written before money is spent.

``$XDG_STATE_HOME/skyward/pools/<pool id>.jsonl``, for the user only. A line is one JSON object: first what
the pool is, then each claim before its launch, each machine, and each machine's end. The process that has
the pool holds a lock on the file; one that nobody holds is that of a client that is gone. When that client
was last alive is the file's time of change.

- Nothing secret is in it: where machines are, never how one gets in.
- A file goes when every machine of its pool is known to have ended.
- A client that comes after another takes the file over, and counts itself in it.

Blocking; quick but for ``sync``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward.errors import PoolStateError
from skyward.hooks.values import LocalEndpoint, PoolRef, SSHEndpoint
from skyward.link import numbers
from skyward.link.hostkeys import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skyward.hooks.values import Claim, Endpoint, Machine

SECRET_FIELDS = ("key_data",)
"""Of an endpoint: never written."""
LATE_SECONDS = 60.0
"""How long after ``ttl`` a machine may still be about to end itself."""
ALIVE_SECONDS = LATE_SECONDS / 4
"""How often a client says that it is alive."""
KEPT_SECONDS = 7 * 24 * 3600.0
"""How long a file stays whose machines nobody has looked for."""


def folder() -> Path:
    """Return where the files are."""
    return store().parent / "pools"


@dataclass(frozen=True, slots=True)
class Estate:
    """What a file says. ``seen``: when its client was last alive, in seconds since the epoch."""

    path: Path
    pool: PoolRef
    owner: str
    digest: str
    """Of the memento that the pool's agents keep: see ``skyward.engine.memento``."""
    seen: float
    epoch: int
    """Of the last client's numbers: see ``skyward.link.numbers``."""
    ranks: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    """Of claims."""
    providers: frozenset[str] = frozenset()
    """Who was asked for machines."""
    machines: dict[str, Endpoint | None] = field(default_factory=lambda: dict[str, "Endpoint | None"]())
    """Those that have not ended, and where they are."""
    pythons: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    """What their agents run in."""

    @property
    def is_over(self) -> bool:
        """Whether every machine must have ended itself by now."""
        return time.time() > self.seen + self.pool.ttl + LATE_SECONDS

    @property
    def is_old(self) -> bool:
        """Whether it was kept for long enough."""
        return time.time() > self.seen + self.pool.ttl + KEPT_SECONDS


class Ledger:
    """The file of a pool that this process has. See ``begin`` and ``take_over``."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def begin(cls, pool: PoolRef, digest: str) -> Ledger:
        """Make a pool's file. Raises OSError."""
        place = folder()
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = place / f"{pool.id}.jsonl"
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        ledger = cls(path, fd)
        ledger._write(
            {"what": "pool", **asdict(pool), "owner": owner(), "digest": digest, "epoch": numbers.epoch()}
        )
        return ledger

    def _write(self, entry: dict[str, Any]) -> None:
        os.write(self._fd, json.dumps(entry).encode() + b"\n")

    def taken_over(self) -> None:
        """Write down that we have the pool now."""
        self._write({"what": "client", "owner": owner(), "epoch": numbers.epoch()})

    def claim(self, claim: Claim) -> None:
        """Write down what is about to be launched."""
        self._write({"what": "claim", "id": claim.id, "rank": claim.rank, "provider": claim.provider})

    def machine(self, machine: Machine) -> None:
        """Write down what a launch gave, or where it turned out to be."""
        self._write({"what": "machine", "id": machine.id, "endpoint": _written(machine.endpoint)})

    def python(self, machine: str, path: str) -> None:
        """Write down which interpreter a machine's agent runs in."""
        self._write({"what": "python", "id": machine, "path": path})

    def ended(self, machine: str) -> None:
        """Write down that a machine was ended."""
        self._write({"what": "ended", "id": machine})

    def sync(self) -> None:
        """Have what was written survive a loss of power."""
        os.fsync(self._fd)

    def alive(self) -> None:
        """Note that the client is."""
        os.utime(self._fd)

    def close(self, *, ended: bool) -> None:
        """Let go of the file; remove it when every machine has ended."""
        if ended:
            self._path.unlink(missing_ok=True)
        fd, self._fd = self._fd, -1  # what comes late must not write to whatever has the number next
        os.close(fd)


def take_over(name: str) -> tuple[Estate, Ledger]:
    """Have the pool of that name, or id, whose client is gone: the last one. Raises PoolStateError."""
    estate = left_behind(name)
    fd = _locked(estate.path)
    if fd is None:  # by another process, just now
        raise _is_open(estate)
    ledger = Ledger(estate.path, fd)
    numbers.follow(estate.epoch)
    ledger.taken_over()
    return estate, ledger


def left_behind(name: str) -> Estate:
    """Return the pool of that name, or id, whose client is gone: the last one. Raises PoolStateError."""
    found = sorted(
        (estate for estate in estates() if name in (estate.pool.name, estate.pool.id)),
        key=lambda estate: estate.seen,
    )
    free = [estate for estate in found if not _is_held(estate.path)]
    usable = [estate for estate in free if not estate.is_over]
    if usable:
        return usable[-1]
    if len(free) < len(found):
        raise _is_open(next(estate for estate in reversed(found) if estate not in free))
    if free:
        ago = time.time() - free[-1].seen
        raise PoolStateError(
            f"the pool {name!r} is gone: its client was last alive {ago:.0f} s ago, "
            f"and its machines end themselves {free[-1].pool.ttl} s after that (ttl)"
        )
    others = sorted({estate.pool.name for estate in estates() if not _is_held(estate.path)})
    there = f"there are: {', '.join(others)}" if others else "none is"
    raise PoolStateError(f"no pool {name!r} was left behind by a client of this computer; {there}")


def estates() -> list[Estate]:
    """Read every file there is."""
    found: list[Estate] = []
    for path in folder().glob("*.jsonl"):
        try:
            found.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError):  # removed meanwhile, or being made
            continue
    return found


def expired() -> list[Estate]:
    """Return the pools without a client whose machines must have ended: what is left of them is nobody's."""
    return [estate for estate in estates() if estate.is_over and not _is_held(estate.path)]


def forget(estates: Iterable[Estate]) -> None:
    """Remove the files of pools of which nothing is left."""
    for estate in estates:
        fd = _locked(estate.path)
        if fd is not None:
            estate.path.unlink(missing_ok=True)
            os.close(fd)


def _is_open(estate: Estate) -> PoolStateError:
    return PoolStateError(f"the pool {estate.pool.name!r} is open in another process: {estate.owner}")


def _locked(path: Path) -> int | None:
    """Open a file whose client is gone, and have its lock; None where there is a client, or no file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def _is_held(path: Path) -> bool:
    fd = _locked(path)
    if fd is None:
        return True
    os.close(fd)
    return False


def _read(path: Path) -> Estate:
    with path.open(encoding="utf-8") as file:
        seen = os.fstat(file.fileno()).st_mtime
        entries: list[dict[str, Any]] = [json.loads(line) for line in file if line.endswith("\n")]
    first = entries[0]
    owners = [entry["owner"] for entry in entries if entry["what"] in ("pool", "client")]
    machines: dict[str, Endpoint | None] = {}
    for entry in entries:
        if entry["what"] == "machine":
            machines[entry["id"]] = _endpoint(entry["endpoint"])
        elif entry["what"] == "ended":
            machines.pop(entry["id"], None)
    claims = [entry for entry in entries if entry["what"] == "claim"]
    return Estate(
        path=path,
        pool=PoolRef(id=first["id"], name=first["name"], ttl=first["ttl"]),
        owner=owners[-1],
        digest=first["digest"],
        seen=seen,
        epoch=max(entry["epoch"] for entry in entries if entry["what"] in ("pool", "client")),
        ranks={entry["id"]: entry["rank"] for entry in claims},
        providers=frozenset(entry["provider"] for entry in claims),
        machines=machines,
        pythons={entry["id"]: entry["path"] for entry in entries if entry["what"] == "python"},
    )


def _written(endpoint: Endpoint | None) -> dict[str, Any] | None:
    if endpoint is None:
        return None
    kept = {
        entry.name: getattr(endpoint, entry.name)
        for entry in fields(endpoint)
        if entry.name not in SECRET_FIELDS
    }
    if isinstance(endpoint, SSHEndpoint):
        kept["jump"] = [_written(hop) for hop in endpoint.jump]
    return kept


def _endpoint(written: dict[str, Any] | None) -> Endpoint | None:
    if written is None:
        return None
    if "root" in written:
        return LocalEndpoint(**written)
    jumps = tuple(hop for entry in written["jump"] if isinstance(hop := _endpoint(entry), SSHEndpoint))
    lists = {name: tuple(written[name]) for name in ("keys", "host_keys")}
    given: dict[str, Any] = {**written, **lists, "jump": jumps}
    return SSHEndpoint(**given)


def owner() -> str:
    """Say who we are, for people: this computer and this process."""
    return f"{os.uname().nodename}:{os.getpid()}"
