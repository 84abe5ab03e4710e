"""The folders that machines are: where they live, how one comes and goes, and what is written in it.

    <base>/                     0700, ours, no link: anything else is refused
      <id>/machine.json         who asked for it; there from the first moment, as folders appear by a rename
      <id>/agent.pid            "<pid> <start time>" of our agent, once it runs
      <id>/pids                 the same, one a line: processes that the agent started
      .new.<pid>.<start>.<hex>  being made by that process
      .old.<id>.<hex>           being removed; nobody looks for it any more

A machine's id is made from its claim, so that two launches of one claim meet at the same name.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from skyward.errors import ProviderError

from skyward_local.processes import Process, current, pid_space

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyward.hooks.values import Claim, PoolRef

LONGEST_SOCKET = 103
"""Bytes of a unix socket's path: Linux takes 107, macOS 103."""

ROOM_FOR_SOCKETS = 24
"""Bytes kept for ``/<name of a socket>`` below a machine's folder."""

ID_LENGTH = 8
YOUNG_DRAFT_SECONDS = 60

LONGEST_BASE = LONGEST_SOCKET - ROOM_FOR_SOCKETS - len("/") - ID_LENGTH

_ID = re.compile(rf"[a-z2-7]{{{ID_LENGTH}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What ``machine.json`` holds. ``created``: seconds since the epoch. ``space``: see ``pid_space``."""

    id: str
    claim: str = ""
    pool: str = ""
    pool_name: str = ""
    rank: int = 0
    owner: str = ""
    created: float = 0.0
    ttl: int = 0
    client: str = ""
    space: str = ""


def full_path(root: str) -> str:
    """Return an absolute path, with ``~`` spelt out."""
    return os.path.abspath(os.path.expanduser(root))


def default_base() -> str:
    """The first usable place for a base: the user's runtime folder, else the folder for temporary files."""
    import tempfile

    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    name = f"skyward-{os.geteuid()}"
    # /tmp last: a batch system's temporary folder may be too deep for a socket.
    places = [os.path.join(tempfile.gettempdir(), name), os.path.join("/tmp", name)]
    if _is_mine_and_writable(runtime):
        places.insert(0, os.path.join(runtime, "skyward"))
    return next((place for place in places if len(os.fsencode(place)) <= LONGEST_BASE), places[-1])


def _is_mine_and_writable(folder: str) -> bool:
    # sudo may hand us another user's runtime folder, where root could write but must not.
    try:
        return os.stat(folder).st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def secure(base: str) -> None:
    """Make ``base`` if it is missing, and refuse it if ``check`` does."""
    with suppress(FileExistsError):  # no folder: what follows says so better
        os.makedirs(os.path.dirname(base))
    with suppress(FileExistsError):
        os.mkdir(base, 0o700)
    check(base)


def check(base: str) -> None:
    """Refuse a base that another user made, opened or could swap; FileNotFoundError if there is none.

    Comes before anything in it is believed: its pid files tell us whom to kill.
    """
    parent = os.path.dirname(base)
    if os.stat(parent).st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise _refused(base, f"anyone could replace it, {parent} lacks the sticky bit")
    try:
        handle = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise _refused(base, "it is a link or no folder") from None
        if error.errno == errno.EACCES:
            raise _refused(base, "it is closed to us") from None
        raise
    try:
        info = os.fstat(handle)
    finally:
        os.close(handle)
    if info.st_uid != os.geteuid():
        raise _refused(base, f"it belongs to user {info.st_uid}")
    if info.st_mode & 0o077:
        raise _refused(base, f"its mode is {stat.S_IMODE(info.st_mode):04o} and must be 0700")


def _refused(base: str, reason: str) -> ProviderError:
    return ProviderError(
        f"will not keep machines in {base}: {reason}; repair it or choose another place with Local(root=...)",
        provider="local",
    )


def create(base: str, pool: PoolRef, claim: Claim) -> Record:
    """Make the folder of ``claim``, or take over the one that exists; ``base`` is secure.

    Everything up to the rename is invisible to others, so a client killed anywhere leaves either a whole
    machine or a ``.new`` folder that names its dead maker.
    """
    me = current()
    wanted = Record(
        id="", claim=claim.id, pool=pool.id, pool_name=pool.name, rank=claim.rank, owner=claim.owner,
        created=time.time(), ttl=pool.ttl, client=str(me), space=pid_space(),
    )  # fmt: skip
    draft = os.path.join(base, f".new.{me.pid}.{me.start}.{secrets.token_hex(4)}")
    os.mkdir(draft, 0o700)
    try:
        for name in _ids(claim.id):
            record = replace(wanted, id=name)
            _write(draft, record)
            try:
                os.rename(draft, os.path.join(base, name))
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                return record
            there = read(base, name)
            if there.claim == claim.id:
                return _adopted(base, there, wanted)
        raise ProviderError(
            f"no free folder name for claim {claim.id} in {base}", provider="local", retryable=True
        )
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _ids(claim: str) -> Iterator[str]:
    # 40 bits: the second to fourth name are for two claims that meet by chance.
    for salt in range(4):
        digest = hashlib.blake2b(f"{salt}/{claim}".encode(), digest_size=5).digest()
        yield base64.b32encode(digest).decode().lower()


def _adopted(base: str, there: Record, wanted: Record) -> Record:
    # The client that launched it may be dead: as ours, it is nobody's garbage.
    record = replace(there, client=wanted.client, space=wanted.space)
    if record != there:
        _write(os.path.join(base, there.id), record)
    return record


def _write(folder: str, record: Record) -> None:
    draft = os.path.join(folder, f".machine.json.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
    os.replace(draft, os.path.join(folder, "machine.json"))


def read(base: str, name: str) -> Record:
    """The record of a machine; one without claim, pool and client where it can't be read."""
    try:
        with open(os.path.join(base, name, "machine.json"), encoding="utf-8") as file:
            found = Record(**json.load(file))
    except (OSError, ValueError, TypeError):
        return Record(id=name)
    return found if found.id == name else Record(id=name)


def records(base: str) -> list[Record]:
    """Every machine in ``base``, oldest first; none where there is no base yet."""
    try:
        check(base)
        names = os.listdir(base)
    except FileNotFoundError:
        return []
    found = [read(base, name) for name in names if is_id(name)]
    return sorted(found, key=lambda record: (record.created, record.id))


def is_id(name: str) -> bool:
    """Whether ``name`` may be a machine's: ids come from callers and become paths."""
    return _ID.fullmatch(name) is not None


def agent(folder: str) -> Process | None:
    """The agent that says it runs in ``folder``, dead or alive."""
    lines = _lines(os.path.join(folder, "agent.pid"))
    return Process.parse(lines[0]) if lines else None


def listed(folder: str) -> list[Process]:
    """The processes that the agent wrote down."""
    return [found for line in _lines(os.path.join(folder, "pids")) if (found := Process.parse(line))]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def is_alive(folder: str) -> bool:
    """Whether the machine can be used: its agent runs, or has not run yet."""
    try:
        if not os.path.getsize(os.path.join(folder, "agent.pid")):
            return True  # it is being written
    except OSError:
        return os.path.isdir(folder)
    found = agent(folder)
    return found is not None and found.lives


def is_garbage(base: str, record: Record) -> bool:
    """Whether nobody needs it: no agent runs in it, and the client that wanted it is dead."""
    found = agent(os.path.join(base, record.id))
    if found is not None and found.lives:
        return False
    if record.space and record.space != pid_space():
        return False  # of a container whose processes we can't see
    client = Process.parse(record.client)
    return client is None or not client.lives


def discard(base: str, name: str) -> str | None:
    """Take a machine out of every listing at once; return what is left to remove, None if there was none."""
    trash = os.path.join(base, f".old.{name}.{secrets.token_hex(4)}")
    try:
        os.rename(os.path.join(base, name), trash)
    except FileNotFoundError:
        return None
    return trash


def litter(base: str) -> list[str]:
    """Folders that a killed client was making or removing."""
    found: list[str] = []
    for name in os.listdir(base):
        path = os.path.join(base, name)
        if name.startswith(".old.") or (name.startswith(".new.") and _is_abandoned(path)):
            found.append(path)
    return found


def _is_abandoned(draft: str) -> bool:
    _, _, pid, rest = os.path.basename(draft).split(".", 3)
    maker = Process.parse(f"{pid} {rest.rpartition('.')[0]}")
    try:
        # A draft exists for a millisecond. A young one may have a maker in another container.
        is_young = time.time() - os.stat(draft).st_mtime < YOUNG_DRAFT_SECONDS
    except FileNotFoundError:
        return False
    return not is_young and not (maker is not None and maker.lives)


def remove(folder: str) -> None:
    """Remove a tree, also one that a task made read-only and one that somebody else is removing too."""
    if not _refusals(folder):
        return
    with suppress(FileNotFoundError):
        os.chmod(folder, 0o700)
    for place, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                with suppress(FileNotFoundError):
                    os.chmod(path, 0o700)
    refusals = _refusals(folder)
    if refusals:
        raise refusals[0]


def _refusals(folder: str) -> list[BaseException]:
    refusals: list[BaseException] = []

    def note(_function: Callable[..., object], _path: str, error: BaseException) -> None:
        if not isinstance(error, FileNotFoundError):
            refusals.append(error)

    shutil.rmtree(folder, onexc=note)
    return refusals
