"""Packages from indexes of one's own: a real index that wants a password, and one that must not be asked."""

from __future__ import annotations

import base64
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from skyward import Image, PipIndex
from skyward.engine.recipe import make_recipe
from skyward.engine.wheels import Cargo

PASSWORD = "canary/7d1f0c"


def wheel(name: str, origin: str, *needs: str) -> bytes:
    """A package whose only attribute says where it came from."""
    out = io.BytesIO()
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{name}.py", f"origin = {origin!r}\n")
        archive.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {need}\n" for need in needs))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


class Index:
    """A package index on this computer."""

    def __init__(self, packages: dict[str, bytes], user: str = "", password: str = "") -> None:
        wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else None

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if wanted is not None and self.headers["Authorization"] != wanted:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", "Basic")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                name = self.path.strip("/").split("/")[-1]
                body, kind = b"", "text/html"
                if name in packages:
                    file = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
                    body = f'<a href="/files/{name}/{file}">{file}</a>'.encode()
                elif self.path.startswith("/files/"):
                    body, kind = packages[self.path.split("/")[2]], "application/zip"
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server.server_port}/simple"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def own() -> Iterator[Index]:
    packages = {
        "own-one": wheel("own_one", "own", "own-two"),
        "own-two": wheel("own_two", "own"),
        "own-three": wheel("own_three", "own"),
    }
    index = Index(packages, "user", PASSWORD)
    yield index
    index.close()


@pytest.fixture(scope="module")
def public() -> Iterator[Index]:
    """Where anybody may put a package of the same name."""
    packages = {
        "own-one": wheel("own_one", "public", "own-two"),
        "own-two": wheel("own_two", "public"),
        "front": wheel("front", "public", "own-one"),
    }
    index = Index(packages)
    yield index
    index.close()


@pytest.fixture
def lone_box(box: Any, public: Index, tmp_path: Path) -> Any:
    """A machine that knows the public index, and no proxy."""
    names = [name for name in box.env if name.lower().endswith("_proxy")]
    alone = box.again(UV_DEFAULT_INDEX=public.url(), UV_CACHE_DIR=str(tmp_path / "cache"))
    for name in names:
        del alone.env[name]
    return alone


def image(own: Index, user: str, *pip: str) -> Image:
    index = PipIndex(own.url(user), packages=["own-one", "Own_Two", "own-three"])
    return Image(pip=pip, pip_indexes=[index])


@pytest.mark.parametrize("asked", ["own-one", "front"])
def test_packages_of_an_index_come_from_nowhere_else(lone_box: Any, own: Index, asked: str) -> None:
    prepared = lone_box.up(make_recipe(image(own, "user:canary%2F7d1f0c@", asked), Cargo()))
    # The second is needed by the first alone: nobody asked for it by name. The third is not needed.
    code = "import own_one, own_two; print(own_one.origin, own_two.origin)"
    assert lone_box.ask(prepared, code) == "own own"
    absent = "import importlib.util; print(importlib.util.find_spec('own_three'))"
    assert lone_box.ask(prepared, absent) == "None"
    written = [file for file in lone_box.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert not [file for file in written if b"canary" in file.read_bytes()]
    assert not any("canary" in line for line in (*lone_box.lines, *lone_box.commands))


@pytest.mark.parametrize("user", ["", "user:wrong@"])
def test_an_index_that_wants_another_password_is_named(lone_box: Any, own: Index, user: str) -> None:
    error = lone_box.failure(make_recipe(image(own, user, "own-one"), Cargo()))
    assert error.phase == "packages"
    assert f"{own.url()} wants a user and a password, or other ones: PipIndex(url=" in str(error)
    assert "wrong" not in str(error) + error.tail


def test_an_index_for_everything_is_asked_first(lone_box: Any, own: Index) -> None:
    index = PipIndex(own.url("user:canary%2F7d1f0c@"))
    prepared = lone_box.up(make_recipe(Image(pip=["front"], pip_indexes=[index]), Cargo()))
    code = "import own_one, front; print(own_one.origin, front.origin)"
    assert lone_box.ask(prepared, code) == "own public"
