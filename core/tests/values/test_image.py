"""Image, its hashes, and the other values of an environment: metrics, containers, durations."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyward import containers, durations, metrics
from skyward import image as image_module
from skyward.containers import DockerImage
from skyward.errors import ConfigError, UnknownNameError, UsageError
from skyward.image import DEFAULT_IMAGE, Image, PipIndex

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"python": "3.11"}, "python must be '3.12' or newer, which Skyward needs on the node, not '3.11'"),
        ({"python": "latest"}, "python must be 'auto' or a version such as '3.13', not 'latest'"),
        ({"pip": [""]}, "pip[0] must not be empty"),
        ({"env": {"1A": "x"}}, "env: '1A' can't name a variable: letters, digits and _, no digit first"),
        ({"env": {"A": "\0"}}, "env['A'] contains a NUL character, which no environment can hold"),
        (
            {"skyward_source": "git"},
            "skyward_source must be one of 'auto', 'pypi', 'github', 'local', not 'git': "
            "did you mean 'github'?",
        ),
        ({"bootstrap_timeout": -1}, "bootstrap_timeout must be a number above 0, not -1"),
    ],
)
def test_a_wrong_value_is_refused(arguments: dict[str, object], message: str) -> None:
    make: Callable[..., Image] = Image
    with pytest.raises(ConfigError) as caught:
        make(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"python": 3.13}, "python must be a string such as '3.13', or 'auto', not 3.13"),
        ({"pip": "torch"}, "pip must be a list or tuple of strings, such as [\"…\"], not 'torch'"),
        ({"apt": [7]}, "apt[0] must be a string, not 7"),
        ({"env": ["A=b"]}, 'env must be a mapping of strings, such as {"NAME": "value"}'),
        ({"env": {"A": 1}}, "env['A'] must be a string, not of type int"),
        (
            {"pip_indexes": ["https://x"]},
            "pip_indexes[0] must be sky.PipIndex(\"https://…\"), not 'https://x'",
        ),
        ({"metrics": ["CPU"]}, "metrics[0] must be sky.metrics.CPU(), not 'CPU'"),
    ],
)
def test_a_wrong_type_is_refused(arguments: dict[str, object], message: str) -> None:
    make: Callable[..., Image] = Image
    with pytest.raises(UsageError) as caught:
        make(**arguments)
    assert str(caught.value) == message


def test_lists_become_tuples_and_mappings_are_copied() -> None:
    env = {"A": "1"}
    image = Image(pip=["a", "b"], env=env, metrics=[metrics.CPU()])
    env["A"] = "2"
    assert (image.pip, image.env, image.metrics) == (("a", "b"), {"A": "1"}, (metrics.CPU(),))
    with pytest.raises(TypeError):
        image.env["A"] = "3"  # type: ignore[index]  # the error under test
    assert Image(metrics=None).metrics == ()


def test_images_are_hashable_and_picklable() -> None:
    image = Image(pip=["a"], env={"A": "1", "B": "2"}, shell_vars={"C": "date"})
    again = pickle.loads(pickle.dumps(image))
    assert again == image
    assert hash(again) == hash(image)
    assert {image, again} == {image}
    assert replace(image, pip=(*image.pip, "b")).pip == ("a", "b")


def test_no_secret_is_shown() -> None:
    index = PipIndex("https://me:hunter2@pypi.example/simple", ["x"])
    shown = repr(Image(env={"TOKEN": "hunter2"}, pip_indexes=[index]))
    assert "hunter2" not in shown
    assert "TOKEN" in shown
    assert "https://…@pypi.example/simple" in shown
    with pytest.raises(UsageError) as caught:
        Image(env={"TOKEN": b"hunter2"})  # type: ignore[dict-item]  # the error under test
    assert "hunter2" not in str(caught.value)


words = st.text(min_size=1).filter(lambda text: text.strip() and "\0" not in text)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
images = st.builds(
    Image,
    python=st.sampled_from(["auto", "3.12", "3.13"]),
    pip=st.lists(words, max_size=3),
    apt=st.lists(words, max_size=3),
    env=st.dictionaries(names, words, max_size=3),
    shell_vars=st.dictionaries(names, words, max_size=3),
    includes=st.lists(words, max_size=2),
    excludes=st.lists(words, max_size=2),
)


@given(images)
def test_equal_images_have_equal_hashes_whatever_the_order_of_variables(image: Image) -> None:
    turned = replace(image, env=dict(reversed(list(image.env.items()))), metrics=(), bootstrap_timeout=1)
    assert turned.env_hash() == image.env_hash()
    assert turned.content_hash() == image.content_hash()
    assert len(image.env_hash()) == 12
    assert int(image.env_hash(), 16) >= 0


@given(images, images)
def test_different_environments_have_different_hashes(one: Image, other: Image) -> None:
    def resolved(image: Image) -> Image:
        return replace(image, python=HERE if image.python == "auto" else image.python)

    assert (one.env_hash() == other.env_hash()) == (resolved(one) == resolved(other))


def test_each_part_of_the_environment_counts_in_its_place() -> None:
    images = [
        Image(pip=["a"]), Image(apt=["a"]), Image(includes=["a"]), Image(excludes=["a"]),
        Image(env={"a": "a"}), Image(shell_vars={"a": "a"}), Image(pip_indexes=[PipIndex("https://a")]),
        Image(pip=["a", "b"]), Image(pip_indexes=[PipIndex("https://a", ["b"])]), Image(pip=["ab"]),
        Image(python="3.99"), Image(),
    ]  # fmt: skip
    assert len({image.env_hash() for image in images}) == len(images)


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from skyward.image import Image; "
        "print(Image(python='3.13', pip=['torch'], env={'A': '1', 'B': '2'}).env_hash())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Image(python="3.13", pip=["torch"], env={"B": "2", "A": "1"}).env_hash()


def test_auto_is_hashed_as_this_python() -> None:
    assert Image().env_hash() == Image(python=HERE).env_hash()
    assert Image().python == "auto"


def test_only_the_content_hash_covers_skyward(monkeypatch: pytest.MonkeyPatch) -> None:
    env, content = DEFAULT_IMAGE.env_hash(), DEFAULT_IMAGE.content_hash()
    pypi = Image(skyward_source="pypi")
    assert (pypi.env_hash() == env, pypi.content_hash() == content) == (True, False)
    monkeypatch.setattr(image_module, "_skyward_version", lambda: "99.0")
    assert (DEFAULT_IMAGE.env_hash() == env, DEFAULT_IMAGE.content_hash() == content) == (True, False)


def test_metrics_describe_what_to_read() -> None:
    assert metrics.GPU() == metrics.Metric("gpu", interval=3.0, multi=True, kind="gpu")
    assert metrics.GPU(1).target == "1"
    assert metrics.Disk("/data") == metrics.Metric("disk:/data", interval=5.0, kind="disk", target="/data")
    assert metrics.Custom("fans", "sensors -u").command == "sensors -u"
    readings = metrics.Default(cpu_interval=9)
    assert len({m.name for m in readings}) == len(readings)
    assert readings[0] == metrics.CPU(9)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (metrics.CPU, {"interval": 0}),
        (metrics.Custom, {"name": "fans", "command": ""}),
        (metrics.GPU, {"index": -1}),
        (metrics.Disk, {"path": ""}),
    ],
)
def test_metrics_that_read_nothing_are_refused(
    make: Callable[..., metrics.Metric], arguments: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        make(**arguments)


@pytest.mark.parametrize(
    ("image", "tag", "cuda", "ubuntu"),
    [
        (containers.cuda("12.9"), "nvidia/cuda:12.9.1-cudnn-runtime-ubuntu22.04", "12.9", "22.04"),
        (
            containers.cuda("12.9", variant="devel", ubuntu="24.04"),
            "nvidia/cuda:12.9.1-devel-ubuntu24.04",
            "12.9",
            "24.04",
        ),
        (containers.cuda("12.2"), "nvidia/cuda:12.2.2-cudnn8-runtime-ubuntu22.04", "12.2", "22.04"),
        (containers.cuda("12.3"), "nvidia/cuda:12.3.2-cudnn9-runtime-ubuntu22.04", "12.3", "22.04"),
        (containers.cuda("12.8.0", variant="base"), "nvidia/cuda:12.8.0-base-ubuntu22.04", "12.8", "22.04"),
        (
            containers.cuda("12.6", repository="nvcr.io/nvidia/cuda"),
            "nvcr.io/nvidia/cuda:12.6.3-cudnn-runtime-ubuntu22.04",
            "12.6",
            "22.04",
        ),
        (containers.ubuntu(), "ubuntu:24.04", None, "24.04"),
        (containers.pytorch("2.8", cuda="12.9"), "nvcr.io/nvidia/pytorch:25.04-py3", "12.9", "24.04"),
        (containers.runpod_pytorch(), "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404", "12.8", "24.04"),
        (containers.runpod_base(), "runpod/base:1.0.3-cuda1290-ubuntu2204", "12.9", "22.04"),
        (DockerImage.of("me/mine:1", cuda="12.8", ubuntu="22.04"), "me/mine:1", "12.8", "22.04"),
    ],
    ids=lambda value: value.tag if isinstance(value, DockerImage) else "",
)
def test_containers_know_their_tags(
    image: DockerImage, tag: str, cuda: str | None, ubuntu: str | None
) -> None:
    assert image == DockerImage(tag, cuda, ubuntu)
    assert str(image) == tag


def test_containers_refuse_versions_without_a_tag() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown CUDA version '12\.7'"):
        containers.cuda("12.7")
    with pytest.raises(ConfigError, match=r"PyTorch 2\.8 has CUDA 12\.9, not '12\.8': leave cuda out"):
        containers.pytorch("2.8", cuda="12.8")
    with pytest.raises(ConfigError, match="variant must be one of"):
        containers.cuda("12.9", variant="develop")
    with pytest.raises(ConfigError, match="tag must look like"):
        DockerImage.of("docker://me/mine")


def test_durations_are_seconds() -> None:
    assert (durations.minutes(10), durations.hours(2), durations.days(1)) == (600.0, 7200.0, 86400.0)
