"""Wheels made again: they hold what is installed, and equal installs give equal bytes."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import subprocess
import sys
import sysconfig
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import importlib_metadata
import pytest
from skyward.engine import wheels
from skyward.engine.wheels import Wheel, cargo_for, requirement_name, wheel_of
from skyward.errors import ConfigError
from skyward.hooks import Plugin, hookimpl
from skyward.hooks.registry import forget

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n{more}"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages that this process imports from."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    forget()
    yield folder
    importlib.invalidate_caches()
    forget()


def install(site: Path, name: str, files: dict[str, str], more: str = "", **info: str) -> Path:
    """Lay out an installed distribution as installers do."""
    folder = site / f"{name.replace('-', '_')}-1.5.dist-info"
    metadata = {
        "METADATA": METADATA.format(name=name, more=more),
        "WHEEL": WHEEL,
        "INSTALLER": "test",
        **info,
    }
    everything = {**files, **{f"{folder.name}/{name}": text for name, text in metadata.items()}}
    for path, text in everything.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    record = "".join(f"{path},,\n" for path in [*everything, f"{folder.name}/RECORD"])
    (folder / "RECORD").write_text(record)
    importlib.invalidate_caches()
    return folder


def contents(wheel: Wheel) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_kernel_is_packed_as_it_is_now() -> None:
    files = contents(wheel_of("skyward-core"))
    source = Path(wheels.__file__)
    assert files["skyward/engine/wheels.py"] == source.read_bytes()
    assert files["skyward/engine/remote.sh"] == source.with_name("remote.sh").read_bytes()
    assert "skyward/py.typed" in files
    assert not any(name.endswith(".pyc") or "direct_url" in name for name in files)
    installed = {
        f"skyward/{path.relative_to(source.parents[1]).as_posix()}"
        for path in source.parents[1].rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in files if ".dist-info/" not in name} == installed


def test_the_record_lists_every_file_with_its_hash() -> None:
    wheel = wheel_of("skyward-core")
    assert wheel.filename.startswith("skyward_core-")
    assert wheel.filename.endswith("-py3-none-any.whl")
    files = contents(wheel)
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    rows = {name: (digest, size) for name, digest, size in csv.reader(files[record].decode().splitlines())}
    assert rows.pop(record) == ("", "")
    assert rows.keys() == files.keys() - {record}
    for name, (digest, size) in rows.items():
        expected = urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={expected}", str(len(files[name]))), name


def test_another_process_makes_the_same_bytes() -> None:
    code = (
        "import sys, hashlib; from skyward.engine.wheels import wheel_of; w = wheel_of('skyward-core'); "
        "print(w.digest, hashlib.sha256(w.content).hexdigest())"
    )
    wheel = wheel_of("skyward-core")
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == [wheel.digest, hashlib.sha256(wheel.content).hexdigest()]


def test_an_installed_package_is_packed_without_its_install() -> None:
    files = contents(wheel_of("cloudpickle"))
    home = Path(sysconfig.get_paths()["purelib"])
    assert files["cloudpickle/cloudpickle.py"] == (home / "cloudpickle/cloudpickle.py").read_bytes()
    leftovers = ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
    assert not any(name.endswith(leftovers) for name in files)


def test_a_compiled_package_keeps_its_tags() -> None:
    filename = wheel_of("lz4").filename
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert filename.startswith(f"lz4-{importlib_metadata.version('lz4')}-{tag}-{tag}-")
    assert "linux" in filename or "macos" in filename


def test_scripts_and_files_outside_are_left_to_the_installer(site: Path) -> None:
    install(site, "tool-kit", {"tool_kit/__init__.py": "", "../bin/tool": "#!/bin/sh\n"})
    assert set(contents(wheel_of("tool-kit"))) == {
        "tool_kit/__init__.py",
        "tool_kit-1.5.dist-info/METADATA",
        "tool_kit-1.5.dist-info/WHEEL",
        "tool_kit-1.5.dist-info/RECORD",
    }


def editable(site: Path, project: Path, line: Path, **info: str) -> None:
    """Install ``project`` in editable mode, as a file with ``line`` in it."""
    origin = f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}'
    install(site, "my-gear", {"my_gear.pth": f"{line}\n"}, **{"direct_url.json": origin, **info})


def packed(name: str) -> set[str]:
    return {path for path in contents(wheel_of(name)) if ".dist-info/" not in path}


def project_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / "my project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my project" / name).write_text(f"# {name}\n")
    return tmp_path / "my project"


def test_an_editable_install_with_a_folder_of_sources(site: Path, tmp_path: Path) -> None:
    names = ("src/gear/__init__.py", "src/gear/data.json", "src/other.py", "src/gear/__pycache__/x.pyc")
    project = project_with(tmp_path, *names, "src/my_gear.egg-info/PKG-INFO", "tests/test_it.py")
    editable(site, project, project / "src")
    assert packed("my-gear") == {"gear/__init__.py", "gear/data.json", "other.py"}
    before = wheel_of("my-gear").digest
    (project / "src/gear/__init__.py").write_text("changed = True\n")
    assert wheel_of("my-gear").digest != before


def test_an_editable_install_whose_package_lies_beside_its_tests(site: Path, tmp_path: Path) -> None:
    names = ("my_gear/__init__.py", "tests/test_it.py", "setup.py", "more/__init__.py")
    project = project_with(tmp_path, *names)
    editable(site, project, project)
    assert packed("my-gear") == {"my_gear/__init__.py"}


def test_an_editable_install_that_names_its_packages(site: Path, tmp_path: Path) -> None:
    project = project_with(tmp_path, "more/__init__.py", "single.py", "tests/test_it.py")
    editable(site, project, project, **{"top_level.txt": "more\nsingle\n"})
    assert packed("my-gear") == {"more/__init__.py", "single.py"}


def test_an_install_that_hides_its_files_says_what_to_do(site: Path, tmp_path: Path) -> None:
    project = project_with(tmp_path, "unrelated.txt")
    editable(site, project, project)
    with pytest.raises(ConfigError, match=r"my-gear is installed in editable mode.*install it without -e"):
        wheel_of("my-gear")
    (install(site, "bare-thing", {}) / "RECORD").unlink()
    with pytest.raises(ConfigError, match="bare-thing was installed without a list of its files"):
        wheel_of("bare-thing")


def test_a_node_gets_the_versions_that_are_installed_here() -> None:
    cargo = cargo_for("auto", ())
    assert [wheel.filename.partition("-")[0] for wheel in cargo.wheels] == ["skyward_core"]
    exact = {need.name: need.exact for need in cargo.needs}
    assert exact["cloudpickle"] == f"cloudpickle=={importlib_metadata.version('cloudpickle')}"
    assert exact.keys() >= {"cloudpickle", "lz4", "pluggy", "pydantic", "importlib-metadata"}
    assert "asyncssh" not in exact


PLUGIN = """
from skyward.hooks import hookimpl

class Gear:
    @hookimpl
    def skyward_bootstrap(self, cluster):
        return ()

def wrap(fn):
    return fn
"""


def test_the_distribution_of_a_plugin_travels_with_what_it_needs(site: Path) -> None:
    needs = (
        "Requires-Dist: skyward-core>=0.1\nRequires-Dist: cloudpickle[x]>=1; python_version > '3'\n"
        "Requires-Dist: not-here>=2; sys_platform == 'amiga'\nRequires-Dist: pytest; extra == 'tests'\n"
        "Requires-Dist: direct @ https://host/direct.whl\n"
    )
    install(site, "gear-box", {"gear_box_plugin.py": PLUGIN}, needs)
    module = importlib.import_module("gear_box_plugin")
    try:
        by_class = cargo_for("auto", [module.Gear()])
        by_function = cargo_for("auto", [Plugin.create("x").with_decorator(module.wrap)])
    finally:
        del sys.modules["gear_box_plugin"]
    assert by_class == by_function
    assert [wheel.filename for wheel in by_class.wheels][1:] == ["gear_box-1.5-py3-none-any.whl"]
    version = importlib_metadata.version("cloudpickle")
    added = [need.exact for need in by_class.needs if need not in cargo_for("auto", ()).needs]
    assert added == ["not-here>=2; sys_platform == 'amiga'", "direct @ https://host/direct.whl"]
    assert f"cloudpickle=={version}" in [need.exact for need in by_class.needs]


class OfThisFile:
    @hookimpl
    def skyward_bootstrap(self, cluster: object) -> tuple[str, ...]:
        return ()


def test_plugins_of_the_users_own_code_add_nothing() -> None:
    local = Plugin.create("mine").with_decorator(lambda fn: fn)
    assert cargo_for("auto", [OfThisFile(), local]) == cargo_for("auto", ())


def test_other_sources_bring_no_wheels() -> None:
    version = importlib_metadata.version("skyward-core")
    assert cargo_for("pypi", ()) == wheels.Cargo(sources=(f"skyward-core=={version}",))


def test_a_repository_comes_from_the_metadata(site: Path) -> None:
    install(
        site,
        "skyward-core",
        {"nothing.py": ""},
        "Project-URL: Source, https://github.com/someone/skyward/tree/main\n",
    )
    cargo = cargo_for("github", ())
    assert cargo.wheels == ()
    assert cargo.sources == ("skyward-core @ git+https://github.com/someone/skyward@v1.5#subdirectory=core",)


def test_without_a_repository_the_error_names_the_way_out(site: Path) -> None:
    install(site, "skyward-core", {"nothing.py": ""})
    with pytest.raises(ConfigError, match="names no repository on GitHub: use skyward_source='auto'"):
        cargo_for("github", ())


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("numpy", "numpy"),
        ("Foo.Bar_baz[x,y] >= 1.2 ; python_version > '3'", "foo-bar-baz"),
        ("pkg@https://host/x.whl", "pkg"),
        ("x(>=1)", "x"),
        ("git+https://host/repo", None),
        ("https://host/x.whl", None),
        ("--pre", None),
        ("./folder", None),
        ("folder/x.whl", None),
    ],
)
def test_names_are_read_from_requirements(requirement: str, name: str | None) -> None:
    assert requirement_name(requirement) == name
