"""Wheels made again from what is installed here, so that a node runs exactly what this client runs.

- The same files give the same bytes, in every process; ``digest`` names them.
- An editable install is packed from its sources as they are now, with the metadata it was installed with.
- Only Skyward's kernel and the distributions of plugins in use travel as wheels. What those need of others
  comes from a package index, in the version that is installed here.

Everything reads files: call it from a thread. Imported by ``skyward.engine.bringup``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from skyward.errors import ConfigError

if TYPE_CHECKING:
    from skyward.image import SkywardSource

CORE = "skyward-core"
CLIENT_ONLY = frozenset({"asyncssh"})
"""What the kernel needs on the client only: the nodes don't get it."""

_LEFT_OUT = frozenset(
    # Written by installers, about the install and not about the distribution.
    {"RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json"}
    | {"uv_build.json", "uv_cache.json"}
)
_EPOCH = (2000, 1, 1, 0, 0, 0)
_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_EXTRA = re.compile(r"\bextra\s*==")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A distribution as a file that installers take. ``digest``: of its contents, in hexadecimal."""

    filename: str
    digest: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a travelling distribution needs of another: ``exact`` as it is installed here, or ``declared``."""

    name: str
    exact: str
    declared: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """What a node installs so that Skyward and the plugins in use run on it."""

    wheels: tuple[Wheel, ...] = ()
    needs: tuple[Need, ...] = ()
    sources: tuple[str, ...] = ()
    """Requirements that fetch Skyward instead of wheels that bring it."""


_made: dict[str, Wheel] = {}
_lock = threading.Lock()


def normalized(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str | None:
    """Return the normalized name that a requirement begins with; None for a bare URL, a path or an option."""
    match = _NAME.match(requirement)
    if match is None or requirement[match.end() :].lstrip()[:1] not in ("", *"[<>=!~(@;,"):
        return None
    return normalized(match[1])


def cargo_for(source: SkywardSource, plugins: Iterable[object]) -> Cargo:
    """Return what a node needs in order to run what this process runs.

    ``plugins``: the objects in use; those of the user's own script travel with the tasks and add nothing
    here. Raises ConfigError for a distribution that can't be packed.
    """
    import importlib_metadata

    names = [CORE, *sorted(_distributions_of(plugins) - {CORE})]
    versions = {name: importlib_metadata.version(name) for name in names}
    if source == "pypi":
        return Cargo(sources=tuple(f"{name}=={_public(version)}" for name, version in versions.items()))
    sources: tuple[str, ...] = ()
    if source == "github":
        sources = (f"{CORE} @ git+{_repository(CORE)}@v{versions[CORE]}#subdirectory=core",)
    packed = names[1:] if sources else names
    needs: dict[str, Need] = {}
    for name in packed:
        for need in _needs(_installed(name)):
            if need.name not in names:
                needs.setdefault(need.name, need)
    return Cargo(
        wheels=tuple(wheel_of(name) for name in packed), needs=tuple(needs.values()), sources=sources
    )


def wheel_of(name: str) -> Wheel:
    """Return the wheel of an installed distribution. Raises ConfigError when its files can't be told."""
    distribution = _installed(name)
    files = {path: Path(place).read_bytes() for path, place in _files(distribution)}
    folder = next((path.split("/")[0] for path in files if path.endswith(".dist-info/WHEEL")), None)
    if folder is None:
        raise ConfigError(
            f"{name} was installed without a list of its files: install it again with uv or pip, "
            "or use Image(skyward_source='pypi')"
        )
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    with _lock:
        made = _made.get(name)
        if made is None or made.digest != digest.hexdigest():
            stem = folder.removesuffix(".dist-info")
            filename = f"{stem}-{_tag(files[f'{folder}/WHEEL'].decode())}.whl"
            made = Wheel(filename=filename, digest=digest.hexdigest(), content=_zip(files, folder))
            _made[name] = made
        return made


def _installed(name: str) -> Any:
    import importlib_metadata

    return importlib_metadata.distribution(name)  # its types are others in each of its versions


def _distributions_of(plugins: Iterable[object]) -> set[str]:
    from skyward.hooks.registry import distribution_of

    found: set[str] = set()
    for plugin in plugins:
        # One that was put together from functions comes from where they come from.
        for origin in (plugin, *getattr(plugin, "functions", ())):
            owner = distribution_of(origin)
            if owner is not None:
                found.add(owner[0])
    return found


def _needs(distribution: Any) -> Iterator[Need]:
    import importlib_metadata

    requires: list[str] = distribution.requires or []
    for declared in requires:
        name = requirement_name(declared)
        if name is None or name in CLIENT_ONLY or _EXTRA.search(declared):
            continue
        requirement, _, marker = declared.partition(";")
        exact = declared
        if "@" not in requirement:
            try:
                version = _public(importlib_metadata.version(name))
            except importlib_metadata.PackageNotFoundError:  # its marker excludes this client
                yield Need(name=name, exact=declared, declared=declared)
                continue
            extras = re.search(r"\[[^]]*\]", requirement)
            exact = f"{name}{extras[0] if extras else ''}=={version}{f' ;{marker}' if marker else ''}"
        yield Need(name=name, exact=exact, declared=declared)


def _public(version: str) -> str:
    """Leave the local part off: what follows the + is known to no index, and == matches without it."""
    return version.partition("+")[0]


def _repository(name: str) -> str:
    import importlib_metadata

    urls = importlib_metadata.metadata(name).get_all("Project-URL") or []
    for url in (str(entry).partition(",")[2].strip() for entry in urls):
        match = re.match(r"https://github\.com/[^/]+/[^/#?]+", url)
        if match:
            return match[0]
    raise ConfigError(
        f"{name} names no repository on GitHub: use skyward_source='auto', which sends what runs here"
    )


def _files(distribution: Any) -> Iterator[tuple[str, Path]]:
    """Give each file of a distribution: its path in a wheel, and where it is."""
    sources = _editable_sources(distribution)
    for path, place in _recorded(distribution):
        is_metadata = path.parts[0].endswith(".dist-info")
        if (is_metadata and path.name in _LEFT_OUT) or path.suffix == ".pyc" or not place.is_file():
            continue
        # What lies outside the folder of packages is scripts, which installers make again.
        if is_metadata or (sources is None and ".." not in path.parts and not path.is_absolute()):
            yield path.as_posix(), place
    for source in sources or ():
        yield from _below(source, source.parent)


def _text(distribution: Any, name: str) -> str:
    return distribution.read_text(name) or ""


def _recorded(distribution: Any) -> list[tuple[PurePosixPath, Path]]:
    """Return the files that were installed: each as it is listed, and where it is."""
    return [(PurePosixPath(file), Path(str(file.locate()))) for file in distribution.files or ()]


def _editable_sources(distribution: Any) -> list[Path] | None:
    """Return the packages and modules of an editable install; None for one that holds its own files."""
    origin: dict[str, Any] = json.loads(_text(distribution, "direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    url: str = origin["url"]
    project = Path(unquote(urlsplit(url).path))
    for _, file in _recorded(distribution):
        if file.suffix != ".pth":
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            if os.path.isabs(line) and (found := _packages(distribution, Path(line), project)):
                return found
    raise ConfigError(
        f"{distribution.name} is installed in editable mode, and its sources can't be told: "
        "install it without -e, or use Image(skyward_source='pypi')"
    )


def _packages(distribution: Any, folder: Path, project: Path) -> list[Path]:
    """Return what of a folder of sources belongs to the distribution."""
    named = _text(distribution, "top_level.txt").split()
    if not named and folder.resolve() == project.resolve():
        # Beside the package lie tests and documents: only what the distribution is called after is its own.
        named = [normalized(distribution.name).replace("-", "_")]
        named += [str(entry.module).partition(".")[0] for entry in distribution.entry_points]
    if not named:
        named = [path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()]
    places = [place for name in dict.fromkeys(named) for place in (folder / name, folder / f"{name}.py")]
    return sorted(
        place for place in places if (place.suffix == ".py" and place.is_file()) or _is_package(place)
    )


def _is_package(folder: Path) -> bool:
    return folder.is_dir() and any(folder.rglob("*.py")) and not folder.name.endswith(".egg-info")


def _below(place: Path, root: Path) -> Iterator[tuple[str, Path]]:
    if place.name.startswith(".") or place.name == "__pycache__" or place.suffix == ".pyc":
        return
    if place.is_dir():
        for inner in sorted(place.iterdir()):
            yield from _below(inner, root)
    elif place.is_file():
        yield place.relative_to(root).as_posix(), place


def _tag(wheel: str) -> str:
    """Return the compatibility tag for the file's name, which puts several tags into one."""
    tags = [line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")]
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(sorted(set(part))) for part in parts) or "py3-none-any"


def _zip(files: dict[str, bytes], folder: str) -> bytes:
    record = [f"{path},sha256={_hash(content)},{len(content)}" for path, content in sorted(files.items())]
    listing = "\n".join([*record, f"{folder}/RECORD,,", ""])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        # The metadata comes last, as the format advises.
        for path in sorted(files, key=lambda path: (path.startswith(folder), path)):
            _add(archive, path, files[path])
        _add(archive, f"{folder}/RECORD", listing.encode())
    return out.getvalue()


def _add(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    info = zipfile.ZipInfo(path, _EPOCH)
    info.external_attr = 0o100644 << 16
    info.create_system = 3  # Unix, wherever this runs
    archive.writestr(info, content, zipfile.ZIP_DEFLATED, 1)


def _hash(content: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
