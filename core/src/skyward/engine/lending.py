"""What the client lends a node that has neither it nor a way to get it: its own uv, its own Python.

Both go to nodes of the client's kind only (``is_like_here``), compressed, from one temporary file that all
nodes of this process read. Everything here but ``read`` takes a while: call it from a thread. Imported by
``skyward.engine.remote``.
"""

from __future__ import annotations

import atexit
import gzip
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

CHUNK_BYTES = 1 << 18

_LEFT_OUT = re.compile(
    r"/(site-packages|dist-packages|tests?|idlelib|turtledemo|tkinter|lib2to3|pydoc_data|ensurepip|config-[^/]*)/"
    r"|\.opt-[12]\.pyc$|/_(tkinter|(\w+_)?test\w*)\.|\.a$"
)
# These belong to the C library: taken from another machine they break every program that finds them.
_GLIBC = re.compile(r"/(ld-linux|lib(c|m|dl|rt|pthread|util|resolv|nsl|anl|crypt)\.so)[^/]*$")

_files: dict[str, IO[bytes]] = {}
_lock = threading.Lock()


def is_like_here(system: str, libc: str) -> bool:
    """Say whether programs of this computer run on a node.

    ``system``: what ``uname -s`` and ``-m`` print there; ``libc``: such as ``glibc 2.36``.
    """
    ours, version = platform.libc_ver()
    name, _, theirs = libc.partition(" ")
    here = os.uname()
    if system != f"{here.sysname} {here.machine}" or not ours or name != ours:
        return False
    return _numbers(theirs) >= _numbers(version)


def own_uv() -> Path | None:
    """Return this computer's uv: the program itself, not a script that looks for it."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += [Path(sys.prefix) / "bin", Path.home() / ".local/bin", Path.home() / ".cargo/bin"]
    # uv tells what it runs where it is itself.
    places = [Path(os.environ.get("UV", "")), *(folder / "uv" for folder in folders)]
    found = next((place for place in places if _is_program(place)), None)
    script = shutil.which("uv")
    if found is None and script is not None:
        tell = [script, "run", "--no-project", "--offline", "--python", sys.executable]
        tell += ["python", "-c", "import os; print(os.environ['UV'])"]
        told = subprocess.run(tell, capture_output=True, text=True, check=False).stdout.strip()
        found = Path(told) if _is_program(Path(told)) else None
    return found


def uv_archive() -> IO[bytes] | None:
    """Return this computer's uv, compressed; None where it has none."""
    uv = own_uv()
    return None if uv is None else _once("uv", lambda out: _compress(uv, out))


def python_archive(wanted: str) -> IO[bytes] | None:
    """Return the Python that runs here as a compressed tar; None when it is not the one that is wanted."""
    here = platform.python_version()
    if here != wanted and not here.startswith(f"{wanted}."):
        return None
    return _once("python", _pack_python)


def read(file: IO[bytes]) -> Iterator[bytes]:
    """Give a file's bytes. Several may read it at once."""
    offset = 0
    while chunk := os.pread(file.fileno(), CHUNK_BYTES, offset):
        offset += len(chunk)
        yield chunk


def _is_program(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _once(name: str, write: Callable[[IO[bytes]], None]) -> IO[bytes]:
    with _lock:
        if name not in _files:
            out = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
            try:
                write(out)
                out.flush()
            except BaseException:
                out.close()
                raise
            atexit.register(out.close)
            _files[name] = out
        return _files[name]


def _compress(path: Path, out: IO[bytes]) -> None:
    with open(path, "rb") as file, gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed:
        shutil.copyfileobj(file, packed, CHUNK_BYTES)


def _pack_python(out: IO[bytes]) -> None:
    """Write ``bin/python3``, the standard library, and the libraries that both need beside the C library's.

    Put together by hand: a prefix such as /usr holds far more than its Python.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    program = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    modules = [path for path in sorted(library.rglob("*")) if _is_wanted(path, library)]
    compiled = [path for path in modules if path.suffix == ".so"]
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1, dereference=True) as archive:
        archive.add(program, "bin/python3")
        for path in modules:
            archive.add(path, f"lib/{library.name}/{path.relative_to(library).as_posix()}")
        for path in _libraries([program, *compiled]):
            archive.add(path, f"lib/{path.name}")


def _is_wanted(path: Path, library: Path) -> bool:
    name = f"/{path.relative_to(library).as_posix()}"
    return path.is_file() and not _LEFT_OUT.search(name)


def _libraries(programs: list[Path]) -> list[Path]:
    found = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    places = {Path(place) for place in re.findall(r"=> (/\S+) \(", found)}
    return sorted(place for place in places if not _GLIBC.search(str(place)))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
