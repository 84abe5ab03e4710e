"""Set-ups that fail for real: each error names the node, the phase, the command and what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from skyward import Image
from skyward.engine.recipe import make_recipe
from skyward.engine.wheels import Cargo

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


def test_a_shell_var_that_fails_is_named(box: Any, light: Cargo) -> None:
    recipe = make_recipe(Image(shell_vars={"A": "echo fine", "B": "echo no such thing >&2; exit 7"}), light)
    error = box.failure(recipe)
    assert error.phase == "shell_vars"
    assert "`echo no such thing >&2; exit 7` ended with status 7: no such thing" in str(error)


@pytest.mark.parametrize(
    ("pip", "sentence"),
    [
        ("skyward-has-no-such-package", "there is no package skyward-has-no-such-package in the index"),
        ("cloudpickle==99.9", "there is no cloudpickle==99.9 for this Python"),
        ("cloudpickle<3", "the packages don't fit together"),
    ],
)
def test_a_package_that_can_not_be_had_is_named(box: Any, pip: str, sentence: str) -> None:
    image = Image(pip=[pip, "cloudpickle==3.1.2"] if "<" in pip else [pip])
    error = box.failure(make_recipe(image, Cargo()))
    assert error.phase == "packages"
    assert re.search(r"`\S*uv pip install .*` ended with status 1: ", str(error))
    assert sentence in str(error)
    assert error.tail in error.__notes__[0]
    assert not (box.environments[0] / "ready").exists()


def test_an_index_that_can_not_be_reached_is_named(
    box: Any, unreachable: dict[str, str], tmp_path: Path
) -> None:
    lonely = box.again(**unreachable, UV_CACHE_DIR=str(tmp_path / "cache"))
    error = lonely.failure(make_recipe(Image(pip=["cloudpickle"]), Cargo()))
    assert re.search(r"the machine can't reach https://\S+/cloudpickle/?: look at its network", str(error))


def test_a_python_that_is_nowhere_is_named(box: Any, unreachable: dict[str, str]) -> None:
    error = box.again(**unreachable).failure(make_recipe(Image(python="3.99"), Cargo()))
    assert error.phase == "python"
    assert "Python 3.99 is missing, and could be neither downloaded nor sent: install it there" in str(error)


@pytest.fixture
def plain_user(make_box: Any) -> Iterator[Any]:
    """A machine whose user may not become root."""
    with tempfile.TemporaryDirectory(prefix="skyward-plain-", dir="/tmp") as home:
        argv: tuple[str, ...] = ()
        os.chmod(home, 0o755)
        box = make_box(Path(home), "/usr/bin:/bin")
        if IS_ROOT:
            argv = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
            os.chown(home, NOBODY, NOBODY)
            os.chown(box.root, NOBODY, NOBODY)
        elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"]).returncode == 0:
            pytest.skip("this user can become root")
        yield make_box(Path(home), "/usr/bin:/bin", argv=argv)


def test_a_plain_user_is_told_that_apt_needs_root(plain_user: Any) -> None:
    error = plain_user.failure(make_recipe(Image(apt=["skyward-has-no-such-package"]), Cargo()))
    assert error.phase == "apt"
    assert "apt needs root: log in as root or as a user with sudo" in str(error)
    assert "install skyward-has-no-such-package there by hand" in str(error)


def test_without_apt_the_image_is_at_fault(make_box: Any, bare_path: str, tmp_path: Path) -> None:
    folder = tmp_path / "no-apt"
    folder.mkdir()
    for name in os.listdir(bare_path):
        if not name.startswith(("apt", "dpkg")):
            (folder / name).symlink_to(f"{bare_path}/{name}")
    error = make_box(tmp_path / "home", str(folder)).failure(make_recipe(Image(apt=["git"]), Cargo()))
    assert "phase apt: this machine has no apt-get: leave apt=[...] out" in str(error)


@pytest.mark.skipif(not IS_ROOT or shutil.which("apt-get") is None, reason="needs root and apt")
def test_a_system_package_that_does_not_exist_is_named(box: Any, tmp_path: Path) -> None:
    # Lists of its own, so that this computer's stay as they are, and no list to download.
    (tmp_path / "sources").touch()
    for folder in ("lists/partial", "cache/archives/partial"):
        (tmp_path / folder).mkdir(parents=True)
    config = (
        f'Dir::State::lists "{tmp_path}/lists"; Dir::Cache "{tmp_path}/cache"; '
        f'Dir::Etc::sourcelist "{tmp_path}/sources"; Dir::Etc::sourceparts "/dev/null"; '
        'APT::Sandbox::User "root";'
    )
    (tmp_path / "apt.conf").write_text(config)
    error = box.again(APT_CONFIG=str(tmp_path / "apt.conf")).failure(
        make_recipe(Image(apt=["skyward-has-no-such-package"]), Cargo())
    )
    assert error.phase == "apt"
    assert "apt-get" in str(error)
    assert "there is no system package skyward-has-no-such-package" in str(error)


@pytest.mark.skipif(not IS_ROOT or shutil.which("unshare") is None, reason="needs root to mount a small disk")
def test_a_full_disk_is_called_so(box: Any, make_box: Any, cargo: Cargo, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=2m none {small} && exec "$@"'
    argv = ("unshare", "-m", "sh", "-c", mount, "sh")
    env = {**box.env, "UV_LINK_MODE": "copy"}
    full = make_box(tmp_path / "there", env["PATH"], env, argv)
    full.env["HOME"] = str(small)
    error = full.failure(make_recipe(Image(), cargo))
    assert error.phase == "packages"
    assert "the disk is full: free space, or ask for more with disk_gb" in str(error)


def test_only_silence_is_waited_for(box: Any, light: Cargo) -> None:
    recipe = make_recipe(Image(bootstrap_timeout=0.6), light)
    box.up(make_recipe(Image(), light))
    box.again().up(recipe, "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done")
    error = box.again().failure(recipe, "echo begun; exec sleep 30")
    assert "`echo begun; exec sleep 30`: nothing happened for 0.6 s" in str(error)
    assert error.tail == "begun"


def test_no_secret_is_printed_or_written(box: Any) -> None:
    canary = "canary-7d1f0c"
    image = Image(
        env={"TOKEN": canary},
        pip=[f"skyward-none @ https://user:{canary}@127.0.0.1:9/skyward_none-1-py3-none-any.whl"],
    )
    error = box.again(UV_HTTP_RETRIES="0").failure(make_recipe(image, Cargo()))
    assert canary not in str(error) + error.tail + repr(error.__notes__)
    error = box.again().failure(make_recipe(Image(env={"TOKEN": canary}), Cargo()), 'echo "$TOKEN"; exit 1')
    assert error.tail == "…"
    written = [file for file in box.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert not [file for file in written if canary.encode() in file.read_bytes()]
    assert (box.home / ".skyward").stat().st_mode & 0o077 == 0
