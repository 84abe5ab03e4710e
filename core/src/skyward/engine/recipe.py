"""What a remote node is set up with, as one value: from an image and what travels, without any I/O.

Equal recipes have equal keys, and a node that holds the environment of a key needs nothing more for it. What
is secret (variables, passwords of indexes) is in none of the texts: it goes to the commands through their
environment. The included files have a digest of their own, so that changing one installs nothing again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from skyward.engine.wheels import Cargo, requirement_name
from skyward.errors import ConfigError

if TYPE_CHECKING:
    from skyward.engine.includes import Bundle
    from skyward.image import Image, PipIndex

LAYOUT = 1
"""Changes with what remote.sh builds, so that an older client's environments are not taken for ours."""

_EXACT = re.compile(r"[A-Za-z0-9._-]+(\[[^]]*\])?==[A-Za-z0-9.!+]+(\s*;.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to set a node up. ``script`` asks and builds; ``archive`` is the tar that building needs."""

    key: str
    python: str
    apt: tuple[str, ...]
    phases: tuple[str, ...]
    script: str = field(repr=False)
    archive: bytes = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    """The variables of the node's workers, which the set-up sees as well."""
    secrets: Mapping[str, str] = field(repr=False)
    """Variables of the set-up alone: what the indexes want to know."""
    shell_vars: Mapping[str, str] = field(repr=False)
    timeout: float
    bundle: Bundle | None


def make_recipe(image: Image, cargo: Cargo, bundle: Bundle | None = None) -> Recipe:
    """Return the recipe for ``image``. Raises ConfigError for what a node can't be asked for.

    ``cargo``: what ``skyward.engine.wheels.cargo_for`` found; ``bundle``: the included files.
    """
    python = image.python
    if python == "auto":
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
    requirements = _requirements(image.pip, cargo)
    origins = _origins(image.pip_indexes)
    plain = [line for line in requirements if requirement_name(line) not in origins]
    files = {
        "requirements.txt": _lines(plain),
        "pyproject.toml": _project(requirements, image.pip_indexes, origins),
        "wheels.txt": _lines(f"./{wheel.digest[:16]}/{wheel.filename}" for wheel in cargo.wheels),
    }
    if any(requirement_name(line) in origins for line in requirements):
        files["scoped"] = ""
    digests = sorted((wheel.filename, wheel.digest) for wheel in cargo.wheels)
    key = _digest([LAYOUT, image.env_hash(), python, requirements, digests])
    script = _script(key, python, image, requirements, bundle)
    contents = {"setup.sh": script.encode(), **{name: text.encode() for name, text in files.items()}}
    for wheel in cargo.wheels:
        contents[f"{wheel.digest[:16]}/{wheel.filename}"] = wheel.content
    return Recipe(
        key=key,
        python=python,
        apt=image.apt,
        phases=_phases(image, cargo, bundle, requirements),
        script=script,
        archive=_tar(contents),
        env=image.env,
        secrets=_secrets(image.pip_indexes),
        shell_vars=image.shell_vars,
        timeout=image.bootstrap_timeout,
        bundle=bundle,
    )


def _requirements(pip: Iterable[str], cargo: Cargo) -> list[str]:
    """Return what is installed from indexes. What the user asks for goes before what is installed here."""
    asked = list(pip)
    for line in asked:
        if line.startswith((".", "/", "~", "-e", "file:")):
            raise ConfigError(
                f"pip: {line!r} is a path of this computer: bring a folder along with includes=[...], "
                "and name packages or URLs in pip"
            )
    names = {requirement_name(line) for line in asked}
    needs = [need.declared if need.name in names else need.exact for need in cargo.needs]
    return [*asked, *cargo.sources, *needs]


def _origins(indexes: Iterable[PipIndex]) -> dict[str, str]:
    """Return which packages come from which index alone, by their normalized names."""
    origins: dict[str, str] = {}
    for number, index in enumerate(indexes, 1):
        for package in index.packages:
            name = requirement_name(package)
            if name is None:
                raise ConfigError(f"pip_indexes: {package!r} is no package's name")
            if origins.setdefault(name, _index_name(number)) != _index_name(number):
                raise ConfigError(f"pip_indexes: two indexes name {package!r}: leave it in one of them")
    return origins


def _index_name(number: int) -> str:
    return f"image{number}"


def _project(requirements: list[str], indexes: Iterable[PipIndex], origins: dict[str, str]) -> str:
    """Return the pyproject.toml that holds uv to the indexes. For the lines with # see remote.sh."""
    asked = {name: line for line in requirements if (name := requirement_name(line)) in origins}
    quoted = json.dumps  # its strings are TOML's
    lines = ["[project]", 'name = "skyward-environment"', 'version = "0"', "dependencies = ["]
    lines += [f"  {quoted(line)}," for line in requirements if requirement_name(line) in origins]
    lines += [f"  #{quoted(name)}," for name in sorted(origins) if name not in asked]
    lines += ["]", "[tool.uv]"]
    for number, index in enumerate(indexes, 1):
        explicit = "true" if index.packages else "false"
        lines += ["[[tool.uv.index]]", f"name = {quoted(_index_name(number))}"]
        lines += [f"url = {quoted(_without_password(index.url))}", f"explicit = {explicit}"]
    lines.append("[tool.uv.sources]")
    lines += [f"{quoted(name)} = {{ index = {quoted(index)} }}" for name, index in sorted(origins.items())]
    return _lines(lines)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _secrets(indexes: Iterable[PipIndex]) -> dict[str, str]:
    secrets: dict[str, str] = {}
    for number, index in enumerate(indexes, 1):
        parts = urlsplit(index.url)
        prefix = f"UV_INDEX_{_index_name(number).upper()}"
        if parts.username is not None:
            secrets[f"{prefix}_USERNAME"] = unquote(parts.username)
            secrets[f"{prefix}_PASSWORD"] = unquote(parts.password or "")
    return secrets


def _script(key: str, python: str, image: Image, requirements: list[str], bundle: Bundle | None) -> str:
    # A requirement that is not exact wants the newest, which only an index knows.
    exact = not image.pip and all(_EXACT.fullmatch(line) for line in requirements)
    settings = {
        "KEY": key,
        "PYTHON": python,
        "APT": " ".join(image.apt),
        "FILES": bundle.digest if bundle else "",
        "EXACT": "yes" if exact else "",
    }
    given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return given + Path(__file__).with_name("remote.sh").read_text(encoding="utf-8")


def _phases(image: Image, cargo: Cargo, bundle: Bundle | None, requirements: list[str]) -> tuple[str, ...]:
    """Return the phases that may have something to do, in order; those of uv and Python only where needed."""
    wanted = {
        "apt": image.apt,
        "uv": True,
        "venv": True,
        "python": True,
        "packages": requirements,
        "ship": cargo.wheels or bundle,
        "shell_vars": image.shell_vars,
        "bootstrap": True,
    }
    return tuple(phase for phase, has_work in wanted.items() if has_work)


def _tar(contents: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _digest(content: list[object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
