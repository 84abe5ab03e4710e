"""What decides that two environments are one, what is written down for a node, and what never is."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from skyward import Image, PipIndex
from skyward.engine.includes import bundle_of
from skyward.engine.recipe import Recipe, make_recipe
from skyward.engine.wheels import Cargo, Need, Wheel
from skyward.errors import ConfigError

CARGO = Cargo(
    wheels=(Wheel(filename="skyward_core-0.1.0-py3-none-any.whl", digest="ab" * 32, content=b"wheel"),),
    needs=(
        Need(name="cloudpickle", exact="cloudpickle==3.1.2", declared="cloudpickle>=3.1"),
        Need(name="pydantic", exact="pydantic==2.14.3", declared="pydantic>=2.9"),
    ),
)


def files(recipe: Recipe) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(recipe.archive)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        assert all(member.mode == 0o600 for member in archive.getmembers())
        return {name: file.read() for name, file in found.items() if file is not None}


def lines(recipe: Recipe, name: str = "requirements.txt") -> list[str]:
    return files(recipe)[name].decode().splitlines()


def project(recipe: Recipe) -> Any:
    return tomllib.loads(files(recipe)["pyproject.toml"].decode())


def settings(recipe: Recipe) -> dict[str, str]:
    """The variables that the script gives itself, as a shell understands them."""
    names = ("KEY", "PYTHON", "APT", "FILES", "EXACT")
    head = recipe.script.partition("\n# Sets a machine up")[0]
    show = "\n".join(f'printf "%s\\n" "${name}"' for name in names)
    shown = subprocess.run(["/bin/sh", "-c", f"{head}\n{show}"], check=True, capture_output=True, text=True)
    return dict(zip(names, shown.stdout.split("\n"), strict=False))


def test_the_key_follows_what_is_installed_and_nothing_else() -> None:
    first = make_recipe(Image(), CARGO).key
    assert make_recipe(Image(), CARGO).key == first
    assert make_recipe(Image(bootstrap_timeout=5, metrics=None), CARGO).key == first
    other = Wheel(filename=CARGO.wheels[0].filename, digest="cd" * 32, content=b"other")
    need = Need(name="pydantic", exact="pydantic==2.14.4", declared="pydantic>=2.9")
    different = [
        make_recipe(Image(pip=["numpy"]), CARGO),
        make_recipe(Image(python="3.99"), CARGO),
        make_recipe(Image(apt=["git"]), CARGO),
        make_recipe(Image(env={"A": "1"}), CARGO),
        make_recipe(Image(env={"A": "2"}), CARGO),
        make_recipe(Image(), Cargo(wheels=(other,), needs=CARGO.needs)),
        make_recipe(Image(), Cargo(wheels=CARGO.wheels, needs=(CARGO.needs[0], need))),
    ]
    keys = {recipe.key for recipe in different}
    assert len(keys) == len(different)
    assert first not in keys
    assert all(len(key) == 16 for key in keys)


def test_changing_an_included_file_installs_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("one")
    before = make_recipe(Image(includes=["a.py"]), CARGO, bundle_of(["a.py"]))
    (tmp_path / "a.py").write_text("two")
    after = make_recipe(Image(includes=["a.py"]), CARGO, bundle_of(["a.py"]))
    assert before.key == after.key
    assert settings(before)["FILES"] != settings(after)["FILES"]


def test_auto_is_the_python_that_runs_here() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert make_recipe(Image(), CARGO).python == here
    assert settings(make_recipe(Image(python="3.13.1"), CARGO))["PYTHON"] == "3.13.1"


def test_what_is_installed_here_is_installed_there_unless_the_user_says_otherwise() -> None:
    assert lines(make_recipe(Image(), CARGO)) == ["cloudpickle==3.1.2", "pydantic==2.14.3"]
    asked = make_recipe(Image(pip=["numpy>=2", "Pydantic==2.11"]), CARGO)
    assert lines(asked) == ["numpy>=2", "Pydantic==2.11", "cloudpickle==3.1.2", "pydantic>=2.9"]
    fetched = make_recipe(Image(), Cargo(sources=("skyward-core==0.1.0",)))
    assert lines(fetched) == ["skyward-core==0.1.0"]


def test_a_cache_is_enough_for_exact_versions_only() -> None:
    assert settings(make_recipe(Image(), CARGO))["EXACT"] == "yes"
    assert settings(make_recipe(Image(pip=["numpy"]), CARGO))["EXACT"] == ""
    loose = Cargo(needs=(Need(name="x", exact="x>=1", declared="x>=1"),))
    assert settings(make_recipe(Image(), loose))["EXACT"] == ""


def test_wheels_go_along_under_their_digest() -> None:
    recipe = make_recipe(Image(), CARGO)
    (path,) = lines(recipe, "wheels.txt")
    assert path == f"./{'ab' * 8}/skyward_core-0.1.0-py3-none-any.whl"
    assert files(recipe)[path.removeprefix("./")] == b"wheel"


def test_packages_of_an_index_come_from_there_alone() -> None:
    indexes = [
        PipIndex("https://one.example/simple", packages=["Torch", "torch.vision"]),
        PipIndex("https://two.example/simple"),
    ]
    recipe = make_recipe(Image(pip=["torch[cuda]>=2", "numpy"], pip_indexes=indexes), CARGO)
    assert lines(recipe) == ["numpy", "cloudpickle==3.1.2", "pydantic==2.14.3"]
    config = project(recipe)
    assert config["project"]["dependencies"] == ["torch[cuda]>=2"]
    assert config["tool"]["uv"]["index"] == [
        {"name": "image1", "url": "https://one.example/simple", "explicit": True},
        {"name": "image2", "url": "https://two.example/simple", "explicit": False},
    ]
    assert config["tool"]["uv"]["sources"] == {
        "torch": {"index": "image1"},
        "torch-vision": {"index": "image1"},
    }
    # Nobody asked for this one; remote.sh makes it a dependency if something else needs it.
    assert '  #"torch-vision",' in lines(recipe, "pyproject.toml")


def test_mistakes_of_indexes_are_found_before_anything_starts() -> None:
    twice = [PipIndex("https://a.example", packages=["x"]), PipIndex("https://b.example", packages=["X"])]
    with pytest.raises(ConfigError, match="pip_indexes: two indexes name 'X': leave it in one"):
        make_recipe(Image(pip_indexes=twice), CARGO)
    with pytest.raises(ConfigError, match=r"pip_indexes: '\./x' is no package's name"):
        make_recipe(Image(pip_indexes=[PipIndex("https://a.example", packages=["./x"])]), CARGO)


@pytest.mark.parametrize("path", ["./mine", "../mine", "/mine", "-e .", "~/mine", "file:///mine"])
def test_a_path_of_this_computer_is_no_package(path: str) -> None:
    with pytest.raises(ConfigError, match=r"is a path of this computer: bring a folder along with includes"):
        make_recipe(Image(pip=[path]), CARGO)


def test_secrets_are_in_no_text() -> None:
    image = Image(
        env={"TOKEN": "canary-of-env"},
        pip_indexes=[PipIndex("https://canary-user:canary%2Fpass@one.example/simple", packages=["x"])],
        shell_vars={"X": "echo 1"},
    )
    recipe = make_recipe(image, CARGO)
    assert recipe.secrets == {
        "UV_INDEX_IMAGE1_USERNAME": "canary-user",
        "UV_INDEX_IMAGE1_PASSWORD": "canary/pass",
    }
    assert recipe.env == {"TOKEN": "canary-of-env"}
    written = recipe.archive + recipe.script.encode() + repr(recipe).encode()
    assert b"canary" not in written
    token_only = make_recipe(Image(pip_indexes=[PipIndex("https://tok@one.example")]), CARGO)
    assert token_only.secrets == {"UV_INDEX_IMAGE1_USERNAME": "tok", "UV_INDEX_IMAGE1_PASSWORD": ""}


def test_words_reach_the_script_as_they_are() -> None:
    image = Image(apt=["libc6:amd64", "g++=4:12*", "a'b", "$(touch /tmp/no)"])
    assert settings(make_recipe(image, CARGO))["APT"] == "libc6:amd64 g++=4:12* a'b $(touch /tmp/no)"


def test_only_phases_that_may_have_work_are_announced() -> None:
    assert make_recipe(Image(), Cargo()).phases == ("uv", "venv", "python", "bootstrap")
    everything = make_recipe(Image(apt=["git"], shell_vars={"A": "echo"}), CARGO)
    assert everything.phases == (
        "apt",
        "uv",
        "venv",
        "python",
        "packages",
        "ship",
        "shell_vars",
        "bootstrap",
    )
