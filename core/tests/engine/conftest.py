"""Machines to set up for real: home folders of this computer, with /bin/sh, uv and the package index."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

import pytest
from skyward.engine import lending
from skyward.engine.recipe import Recipe
from skyward.engine.remote import Prepared, set_up
from skyward.engine.wheels import Cargo, cargo_for
from skyward.errors import BootstrapError
from skyward.hooks.values import Machine, Op


def network() -> dict[str, str]:
    """How this computer reaches an index now, nodes do, too."""
    names = re.compile(r"(?i)\w*_proxy|ssl_cert_\w+|uv_index\w*|uv_default_index")
    return {name: value for name, value in os.environ.items() if names.fullmatch(name)}


class Box:
    """A machine that is a home folder of this one: a shell, and a node that notes its phases."""

    rank = 3
    machine = Machine(id="box-1", claim="", pool="")

    def __init__(
        self, home: Path, path: str, env: Mapping[str, str] = {}, argv: tuple[str, ...] = ()
    ) -> None:
        self.home = home
        self.root = str(home / "machine")
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.commands: list[str] = []
        self.phases: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self._waiting: dict[str, asyncio.Event] = {}
        self.env = {**network(), "HOME": str(home), "PATH": path, **env}
        self._argv = argv

    async def run(
        self,
        command: str | tuple[str, ...],
        env: Mapping[str, str],
        *,
        stdin: bytes = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> tuple[int, str]:
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
        self.commands.append(" ".join(argv))
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            *argv,
            cwd=self.root,
            env={**self.env, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        output: list[str] = []
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(stdin)
                await process.stdin.drain()
            process.stdin.close()
            while line := await process.stdout.readline():
                output.append(line.decode(errors="replace").rstrip("\n"))
                self._hear(output[-1])
                if on_line is not None:
                    on_line(output[-1])
            return await process.wait(), "\n".join(output)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.communicate()
            raise

    def _hear(self, line: str) -> None:
        self.lines.append(line)
        if line in self._waiting:
            self._waiting.pop(line).set()

    async def said(self, line: str) -> None:
        """Wait for a line."""
        await self._waiting.setdefault(line, asyncio.Event()).wait()

    async def put(self, path: str, data: Iterable[bytes], mode: int = 0o600) -> None:
        self.commands.append(f"put {path}")
        with open(os.path.join(self.root, path), "wb") as file:  # noqa: ASYNC230  a test has time
            file.writelines(data)
        os.chmod(os.path.join(self.root, path), mode)

    @contextlib.contextmanager
    def timed_phase(self, phase: str) -> Generator[None]:
        try:
            yield
        except BaseException:
            self.phases.append((phase, "failed"))
            raise
        self.phases.append((phase, "done"))

    @property
    def done(self) -> list[str]:
        return [phase for phase, state in self.phases if state == "done"]

    def again(self, **env: str) -> Box:
        """The same machine for another pool; ``env``: what its shell sees besides."""
        return type(self)(self.home, self.env["PATH"], {**self.env, **env}, self._argv)

    def up(self, recipe: Recipe, *ops: Op) -> Prepared:
        """Set the machine up."""
        return asyncio.run(set_up(self, self, recipe, ops))

    def failure(self, recipe: Recipe, *ops: Op) -> BootstrapError:
        """Set the machine up in vain; return the error, whose form is checked here for all tests."""
        with pytest.raises(BootstrapError) as caught:
            self.up(recipe, *ops)
        assert (caught.value.rank, caught.value.machine) == (3, "box-1")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"node 3, phase {caught.value.phase}: ")
        assert self.phases[-1] == (caught.value.phase, "failed")
        return caught.value

    def ask(self, prepared: Prepared, code: str) -> str:
        """Run a line of Python as a worker would; return what it prints."""
        command = [prepared.python, "-c", code]
        where = prepared.cwd or "/"
        done = subprocess.run(command, capture_output=True, text=True, env=dict(prepared.env), cwd=where)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def environments(self) -> list[Path]:
        return sorted(self.home.glob(".skyward/envs/*/"))


@pytest.fixture(scope="session")
def uv() -> Path:
    """The uv of this computer."""
    found = lending.own_uv()
    if found is None or sys.platform != "linux":
        pytest.skip("machines are set up by uv, and run Linux")
    return found


@pytest.fixture(scope="session")
def cache(uv: Path) -> str:
    """What uv has downloaded before."""
    printed = subprocess.run([uv, "cache", "dir"], check=True, capture_output=True, text=True)
    return printed.stdout.strip()


@pytest.fixture(scope="session")
def bare_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The programs of this computer, without any Python or uv."""
    folder = tmp_path_factory.mktemp("bare")
    for place in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if not name.startswith(("python", "uv", "pypy")) and not (folder / name).is_symlink():
                (folder / name).symlink_to(f"{place}/{name}")
    return str(folder)


@pytest.fixture(scope="session")
def path(uv: Path, bare_path: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with uv, and with the Python that runs here."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "uv").symlink_to(uv)
    base = os.path.realpath(sys.executable)
    (folder / f"python{sys.version_info.major}.{sys.version_info.minor}").symlink_to(base)
    return f"{folder}:{bare_path}"


@pytest.fixture
def box(tmp_path: Path, path: str, cache: str) -> Box:
    return Box(tmp_path / "home", path, {"UV_CACHE_DIR": cache})


@pytest.fixture(scope="session")
def cargo() -> Cargo:
    return cargo_for("auto", ())


@pytest.fixture(scope="session")
def light() -> Cargo:
    """What is enough for a machine that never runs a task."""
    return Cargo()


@pytest.fixture(scope="session")
def make_box() -> type[Box]:
    """Make a machine of one's own: home, PATH, variables, words in front of each command."""
    return Box


@pytest.fixture(scope="session")
def unreachable() -> dict[str, str]:
    """Variables that cut a machine off from every index."""
    proxy = "http://127.0.0.1:9"
    return {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "ALL_PROXY": proxy, "UV_HTTP_RETRIES": "0"}
