"""Pools from files, and the log file: through the environment of a real process, as users have it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import skyward as sky

DEFAULTS = """
[providers.here]
type = "local"

[pools.shared]
provider = "here"
nodes = 3
[pools.shared.image.env]
FROM = "defaults"
OTHER = "defaults"
"""

PROJECT = """
[pools.shared]
nodes = 2
[pools.shared.image.env]
FROM = "project"

[pools.x]
provider = "here"
nodes = [1, 2]
ttl = 60
default_compute_timeout = 30
worker = { concurrency = 2, executor = "process" }
"""

SCRIPT = """
import json, os, sys
import skyward as sky

@sky.function
def look():
    return sky.instance_info().total_nodes, os.environ.get("FROM"), os.environ.get("OTHER")

if __name__ == "__main__":
    with sky.Compute(name=sys.argv[1], console=False) as pool:
        print(json.dumps([pool.name, look() @ pool, pool.concurrency]))
"""


class User:
    """A home folder and a project folder."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.project = folder / "project"
        (self.home / ".skyward").mkdir(parents=True)
        self.project.mkdir()
        (self.home / ".skyward" / "defaults.toml").write_text(DEFAULTS)
        (self.project / "skyward.toml").write_text(PROJECT)
        (self.project / "script.py").write_text(SCRIPT)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.project,
            env={**os.environ, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_a_named_pool_runs(user: User) -> None:
    done = user.run("script.py", "x")
    assert done.stderr == ""
    assert json.loads(done.stdout) == ["x", [[1, None, None]], 2]


def test_the_project_s_file_lies_over_the_user_s(user: User) -> None:
    done = user.run("script.py", "shared")
    assert done.stderr == ""
    assert json.loads(done.stdout) == ["shared", [[2, "project", "defaults"]] * 2, 2]


# What a person wrote, and what they are told: file, table and the nearest name.
WRONG = [
    ("[pools.x]\nnods = 2\n", r"nods.*did you mean 'nodes'", "pools.x"),
    ("[pools.x]\nnodes = 0\n", r"nodes", "pools.x"),
    ("[pools.x]\nprovider = 'her'\n", r"her.*did you mean 'here'", "pools.x"),
    ("[pools.x]\naccelerator = 'A10O'\n", r"A10O.*did you mean", "pools.x"),
    ("[pools.x.image]\npipp = ['x']\n", r"pipp.*did you mean 'pip'", "pools.x.image"),
    ("[pools.x.worker]\nexecutor = 'threads'\n", r"threads.*did you mean 'thread'", "pools.x.worker"),
    ("[pools.x.plugins]\ntorhc = true\n", r"torhc", "pools.x"),
    ("[providers.there]\ntype = 'locl'\n[pools.x]\nprovider = 'there'\n", r"locl.*local", "providers.there"),
    (
        "[providers.there]\ntype = 'local'\nrooot = '/'\n[pools.x]\nprovider = 'there'\n",
        r"rooot.*did you mean 'root'",
        "providers.there",
    ),
    ("[pool.x]\n", r"pool.*did you mean 'pools'", ""),
    ("[pools.x\n", r"skyward\.toml", ""),
]


@pytest.mark.parametrize(("text", "pattern", "table"), WRONG, ids=[repr(case[0])[:40] for case in WRONG])
def test_a_mistake_in_a_file_names_file_table_and_nearest_name(
    text: str, pattern: str, table: str, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(user.home))
    monkeypatch.chdir(user.project)
    (user.project / "skyward.toml").write_text(text)
    with pytest.raises(sky.SkywardError, match=pattern) as caught:
        sky.Compute(name="x", console=False, logging=False)
    message = str(caught.value)
    assert str(user.project / "skyward.toml") in message
    assert table in message
    assert "\n" not in message


def test_an_unknown_pool_lists_the_known(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(user.home))
    monkeypatch.chdir(user.project)
    with pytest.raises(sky.UnknownNameError, match="did you mean 'shared'"):
        sky.Compute(name="shred")


# the log file


def speak(lines: int) -> None:
    for i in range(lines):
        print(f"line {i}")


def logged(file: Path, **fields: Any) -> sky.LogConfig:
    return sky.LogConfig(file=str(file), **fields)


def test_the_log_tells_what_happened_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "sky.log"
    with sky.Compute(console=False, logging=logged(file)) as pool:
        pool.submit(speak, 3).result()
    text = file.read_text()
    assert [f"line {i}" in text for i in range(3)] == [True] * 3
    assert f"{pool.name} node 0" in text
    assert "ready" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_default_log_is_in_the_home_folder(user: User) -> None:
    assert user.run("script.py", "x").returncode == 0
    assert "node 0" in (user.home / ".skyward" / "logs" / "skyward.log").read_text()


@pytest.mark.parametrize(("retention", "files"), [(0, 1), (2, 3)])
def test_the_log_rotates_by_size_and_keeps_what_it_should(retention: int, files: int, tmp_path: Path) -> None:
    file = tmp_path / "sky.log"
    with sky.Compute(console=False, logging=logged(file, rotation="4 KB", retention=retention)) as pool:
        pool.submit(speak, 1000).result()
    found = sorted(tmp_path.iterdir())
    assert len(found) == files
    assert all(path.stat().st_size <= 4096 for path in found)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in found)


def test_the_log_rotates_by_age(tmp_path: Path) -> None:
    from skyward.engine.logfile import open_log

    file = tmp_path / "sky.log"
    file.write_text("old\n")
    old = time.time() - 7200
    os.utime(file, (old, old))
    handler = open_log(logged(file, rotation="1 hour"))
    import logging

    handler.handle(logging.LogRecord("skyward", logging.INFO, "", 0, "new", None, None))
    handler.close()
    assert "old" not in file.read_text()
    assert len(list(tmp_path.iterdir())) == 2


def test_two_programs_write_to_one_log(tmp_path: Path) -> None:
    """Whoever finds that the other has begun a new file follows, and nothing is lost."""
    import logging

    from skyward.engine.logfile import open_log

    handlers = [open_log(logged(tmp_path / "sky.log", rotation="1 KB", retention=100)) for _ in range(2)]
    for i in range(200):
        for number, handler in enumerate(handlers):
            handler.handle(
                logging.LogRecord("skyward", logging.INFO, "", 0, f"said {number} {i}", None, None)
            )
    for handler in handlers:
        handler.close()
    said = [
        line.rpartition("said ")[2] for path in tmp_path.iterdir() for line in path.read_text().splitlines()
    ]
    assert sorted(said) == sorted(f"{number} {i}" for i in range(200) for number in range(2))


def test_the_level_decides(tmp_path: Path) -> None:
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    for file, level in ((quiet, "ERROR"), (loud, "DEBUG")):
        with sky.Compute(console=False, logging=logged(file, level=level)) as pool:
            pool.submit(speak, 1).result()
    assert not quiet.exists()
    assert "DEBUG" in loud.read_text()


def test_a_log_that_can_t_be_written_is_reported_and_nothing_else_fails(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    heard: list[str] = []
    with sky.subscribe(lambda event: heard.append(event.message), sky.Error):
        with sky.Compute(console=False, logging=logged(tmp_path / "a file" / "sky.log")) as pool:
            assert pool.submit(abs, -1).result() == 1
    assert len(heard) == 1
    assert heard[0].startswith("nothing is logged: ")
