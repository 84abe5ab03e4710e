"""Machines are set up for real: built once, kept, shared, cleaned up."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from skyward import Image
from skyward.engine.includes import bundle_of
from skyward.engine.recipe import Recipe, make_recipe
from skyward.engine.remote import Prepared, set_up
from skyward.engine.wheels import Cargo
from skyward.hooks.values import Op


def test_a_machine_gets_what_runs_here_and_keeps_it(box: Any, cargo: Cargo) -> None:
    recipe = make_recipe(Image(env={"FLAVOUR": "plain"}), cargo)
    prepared = box.up(recipe)
    assert box.done == ["probe", "venv", "packages", "ship"]
    assert len(box.commands) == 2
    code = "import skyward, cloudpickle, sys, os; print(sys.version.split()[0], skyward.__file__, sys.prefix)"
    version, source, prefix = box.ask(prepared, code).split()
    assert version == sys.version.split()[0]
    assert source.startswith(prefix)
    assert prepared.env["VIRTUAL_ENV"] == prefix
    assert prepared.env["PATH"].startswith(f"{prefix}/bin:")
    assert prepared.env["FLAVOUR"] == "plain"
    assert prepared.cwd is None
    assert not os.path.exists(f"{box.root}/setup")

    second = box.again()
    began = time.perf_counter()
    assert second.up(recipe) == prepared
    print(f"warm: {(time.perf_counter() - began) * 1000:.0f} ms")
    assert len(second.commands) == 1
    assert second.done == ["probe"]


def test_another_image_is_another_environment(box: Any, light: Cargo) -> None:
    box.up(make_recipe(Image(env={"A": "1"}), light))
    box.again().up(make_recipe(Image(env={"A": "2"}), light))
    assert len(box.environments) == 2


def test_what_was_cut_off_is_not_taken_for_whole(box: Any, light: Cargo) -> None:
    recipe = make_recipe(Image(), light)
    box.up(recipe)
    (environment,) = box.environments
    (environment / "ready").unlink()
    (environment / "venv/pyvenv.cfg").unlink()
    again = box.again()
    again.up(recipe)
    assert "venv" in again.done
    assert (environment / "venv/pyvenv.cfg").exists()

    (environment / "venv/bin/python").unlink()
    third = box.again()
    assert box.ask(third.up(recipe), "print(1)") == "1"
    assert "venv" in third.done


def test_cancelled_it_can_be_begun_again(box: Any, cargo: Cargo) -> None:
    recipe = make_recipe(Image(), cargo)

    async def cut_off() -> None:
        task = asyncio.create_task(set_up(box, box, recipe))
        await box.said("::skyward phase packages")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off())
    assert box.phases[-1] == ("packages", "failed")
    (environment,) = box.environments
    assert not (environment / "ready").exists()
    box.ask(box.again().up(recipe), "import skyward.node.agent")


def test_pools_that_start_at_once_build_once(box: Any, cargo: Cargo) -> None:
    recipe = make_recipe(Image(), cargo)
    boxes = [box, box.again(), box.again()]
    for number, each in enumerate(boxes):
        each.root = f"{box.root}-{number}"
        os.mkdir(each.root)

    async def together() -> list[Prepared]:
        return list(await asyncio.gather(*(set_up(each, each, recipe) for each in boxes)))

    prepared = asyncio.run(together())
    assert prepared[0] == prepared[1] == prepared[2]
    assert sum(each.done.count("venv") for each in boxes) == 1


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "pack").mkdir(parents=True)
    (folder / "pack/__init__.py").write_text("value = 1\n")
    (folder / "note.txt").write_text("one")
    monkeypatch.chdir(folder)
    return folder


def test_included_files_are_where_tasks_start(box: Any, light: Cargo, project: Path) -> None:
    image = Image(includes=["pack", "note.txt"], env={"PYTHONPATH": "/elsewhere"})

    def recipe() -> Recipe:
        return make_recipe(image, light, bundle_of(image.includes))

    code = "import pack; print(pack.value, open('note.txt').read())"
    prepared = box.up(recipe())
    assert box.ask(prepared, code) == "1 one"
    assert prepared.env["PYTHONPATH"] == f"{prepared.cwd}:/elsewhere"
    assert box.done == ["probe", "ship", "venv", "ship"]

    box.ask(prepared, "open('note.txt', 'w').write('changed by a task')")
    warm = box.again()
    assert box.ask(warm.up(recipe()), code) == "1 one"
    assert len(warm.commands) == 1

    (project / "pack/__init__.py").write_text("value = 2\n")
    changed = box.again()
    assert box.ask(changed.up(recipe()), code) == "2 one"
    assert changed.done == ["probe", "ship"]
    assert not any("uv pip" in line or "uv venv" in line for line in changed.lines)


def test_folders_that_are_imported_from_here_are_imported_from_there(
    box: Any, light: Cargo, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "src").mkdir()
    (project / "src/inner.py").write_text("value = 5\n")
    monkeypatch.syspath_prepend(str(project / "src"))
    prepared = box.up(make_recipe(Image(includes=["src"]), light, bundle_of(["src"])))
    assert box.ask(prepared, "import inner; print(inner.value)") == "5"


def test_shell_vars_are_worked_out_at_each_start(box: Any, light: Cargo) -> None:
    shell_vars = {
        "FIRST": "echo one; echo noise >&2",
        "SECOND": 'printf "%s and\\n two\\n\\n" "$FIRST"',
        "PYTHON": "python -c 'import sys; print(sys.prefix)'",
        "COUNT": f"echo x >> {box.home}/count; wc -l < {box.home}/count",
        "EMPTY": "cat",
        "QUOTED": 'echo "it\'s \\"so\\""; echo \'::skyward failed no-apt\'',
    }
    recipe = make_recipe(Image(shell_vars=shell_vars), light)
    env = box.up(recipe).env
    assert env["FIRST"] == "one"
    assert env["SECOND"] == "one and\n two"
    assert env["PYTHON"] == env["VIRTUAL_ENV"]
    assert env["COUNT"] == "1"
    assert env["EMPTY"] == ""
    assert env["QUOTED"] == 'it\'s "so"\n::skyward failed no-apt'
    again = box.again()
    assert again.up(recipe).env["COUNT"] == "2"
    assert again.done == ["probe", "shell_vars"]


def test_operations_run_each_time_with_the_environment(box: Any, light: Cargo) -> None:
    recipe = make_recipe(Image(env={"WHO": "you"}), light)
    here = f"{box.home}/ops"
    ops: tuple[Op, ...] = (
        f'echo "$WHO $(python -c "import sys; print(sys.prefix)")" >> {here}',
        ("sh", "-c", f"echo '$WHO' >> {here}"),
    )
    prepared = box.up(recipe, *ops)
    box.again().up(recipe, *ops)
    assert Path(here).read_text().splitlines() == [f"you {prepared.env['VIRTUAL_ENV']}", "$WHO"] * 2
    error = box.again().failure(recipe, "echo about to fail; exit 4", "touch never")
    assert "phase bootstrap: `echo about to fail; exit 4` ended with status 4: about to fail" in str(error)
    assert error.tail == "about to fail"
    assert not os.path.exists(f"{box.root}/never")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only programs for glibc are lent")
def test_a_machine_without_uv_and_python_is_lent_both(
    tmp_path: Path, bare_path: str, cache: str, cargo: Cargo, make_box: Any, unreachable: dict[str, str]
) -> None:
    # Packages come from the cache, which the tests above have filled.
    bare = make_box(tmp_path / "home", bare_path, {"UV_CACHE_DIR": cache, **unreachable})
    recipe = make_recipe(Image(), cargo)
    prepared = bare.up(recipe)
    assert [command for command in bare.commands if command.startswith("put")] == [
        "put uv.gz",
        "put python.tar.gz",
    ]
    code = (
        "import sys, ssl, ctypes, sqlite3, lzma, zlib, hashlib, skyward.node.agent; "
        "print(sys.version.split()[0], sys.base_prefix)"
    )
    version, prefix = bare.ask(prepared, code).split()
    assert version == sys.version.split()[0]
    assert prefix.startswith(str(bare.home))
    child = "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', 'print(7)']))"
    assert bare.ask(prepared, child) == "b'7\\n'"

    warm = bare.again()
    assert warm.up(recipe) == prepared
    assert len(warm.commands) == 1
    other = bare.again()
    other.up(make_recipe(Image(env={"A": "b"}), cargo))
    assert not any(command.startswith("put") for command in other.commands)


def test_system_packages_that_are_there_cost_nothing(box: Any, light: Cargo) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("not a Debian")
    show = ["dpkg-query", "-W", "-f", "${Version}", "dpkg"]
    version = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    recipe = make_recipe(Image(apt=["dpkg", f"dpkg={version}", "tar/stable"]), light)
    box.up(recipe)
    assert "apt" not in box.done
    warm = box.again()
    warm.up(recipe)
    assert len(warm.commands) == 1


def test_old_environments_go_but_for_those_in_use(box: Any, light: Cargo) -> None:
    recipes = [make_recipe(Image(env={"N": str(number)}), light) for number in range(8)]
    prepared = [box.again().up(recipe) for recipe in recipes[:7]]
    assert len(box.environments) == 7  # however many: used within the hour
    for age, each in enumerate(prepared):
        past = time.time() - 7200 + age
        os.utime(Path(each.env["VIRTUAL_ENV"]).parent / "ready", (past, past))
    command = [prepared[0].python, "-c", "print(flush=True); import time; time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as in_use:
        assert in_use.stdout is not None
        in_use.stdout.readline()
        try:
            box.again().up(recipes[7])
            deadline = time.monotonic() + 10
            while len(box.environments) > 6 and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            in_use.kill()
    left = {path.name.partition("-")[0] for path in box.environments}
    # The newest five, and the oldest, which a process was started from.
    assert left == {recipe.key for recipe in (recipes[0], *recipes[3:])}
