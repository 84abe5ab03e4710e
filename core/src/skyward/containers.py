"""Names of container images, for the providers that start a container instead of a machine.

Values only: nothing is looked up or pulled. A version that we know no tag for is an error here, before a
machine is rented to find that out; ``DockerImage.of`` takes any tag unseen. Which tag goes with which
version is the publishers' doing. The tables are from general knowledge and have not been held against a
registry; each names the page that decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from skyward import _check
from skyward.errors import ConfigError, UnknownNameError

_UBUNTU = ("20.04", "22.04", "24.04")
_CUDA_VARIANTS = ("base", "runtime", "devel", "cudnn-runtime", "cudnn-devel")

# The last known patch release of each minor version. Decides: https://hub.docker.com/r/nvidia/cuda/tags
_CUDA_PATCH = {
    "12.0": "12.0.1",
    "12.1": "12.1.1",
    "12.2": "12.2.2",
    "12.3": "12.3.2",
    "12.4": "12.4.1",
    "12.5": "12.5.1",
    "12.6": "12.6.3",
    "12.8": "12.8.1",
    "12.9": "12.9.1",
}
# Up to 12.3 the tags carry cuDNN's own major version; later ones say just "cudnn".
_CUDNN = {"12.0": "cudnn8", "12.1": "cudnn8", "12.2": "cudnn8", "12.3": "cudnn9"}

# PyTorch release -> (tag, CUDA) of the monthly container that has it.
# Decides: https://docs.nvidia.com/deeplearning/frameworks/support-matrix
_NGC_PYTORCH = {"2.6": ("24.11-py3", "12.6"), "2.7": ("25.03-py3", "12.8"), "2.8": ("25.04-py3", "12.9")}

# Decide: https://hub.docker.com/r/runpod/pytorch/tags and /r/runpod/base/tags
_RUNPOD_PYTORCH = {
    "2.6": ("1.0.2-cu1281-torch260-ubuntu2404", "12.8", "24.04"),
    "2.7": ("1.0.2-cu1281-torch271-ubuntu2204", "12.8", "22.04"),
    "2.8": ("1.0.2-cu1281-torch280-ubuntu2404", "12.8", "24.04"),
}
_RUNPOD_BASE = {"12.6": "1260", "12.8": "1281", "12.9": "1290"}


@dataclass(frozen=True, slots=True)
class DockerImage:
    """A container image. ``cuda`` and ``ubuntu`` say what is inside, where that is known.

    A provider compares ``cuda`` with what a machine's driver can run.
    """

    tag: str
    cuda: str | None = None
    ubuntu: str | None = None

    def __post_init__(self) -> None:
        _check.text("tag", self.tag)
        if any(c.isspace() for c in self.tag) or "://" in self.tag:
            raise ConfigError(f"tag must look like 'repository/name:tag', not {self.tag!r}")
        if self.cuda is not None:
            _check.cuda_version("cuda", self.cuda)
        if self.ubuntu is not None:
            _check.text("ubuntu", self.ubuntu)

    @classmethod
    def of(cls, tag: str, cuda: str | None = None, ubuntu: str | None = None) -> DockerImage:
        """Return any image by its tag, taken as it is."""
        return cls(tag, cuda, ubuntu)

    def __str__(self) -> str:
        return self.tag


def cuda(
    version: str, *, variant: str = "cudnn-runtime", ubuntu: str = "22.04", repository: str = "nvidia/cuda"
) -> DockerImage:
    """Return NVIDIA's CUDA image: ``version`` as "12.9" (its last patch) or exactly, as "12.9.0".

    ``variant``: base, runtime, devel, cudnn-runtime or cudnn-devel. ``repository``: a mirror of nvidia/cuda.
    """
    _check.text("version", version)
    _check.choice("variant", variant, _CUDA_VARIANTS)
    _check.choice("ubuntu", ubuntu, _UBUNTU)
    minor = ".".join(version.split(".")[:2])
    if version == minor:
        version = _known("CUDA version", version, _CUDA_PATCH)
    flavour = variant.replace("cudnn", _CUDNN.get(minor, "cudnn"))
    return DockerImage(f"{repository}:{version}-{flavour}-ubuntu{ubuntu}", minor, ubuntu)


def ubuntu(version: str = "24.04") -> DockerImage:
    """Return plain Ubuntu."""
    _check.choice("version", version, _UBUNTU)
    return DockerImage(f"ubuntu:{version}", ubuntu=version)


def pytorch(version: str, *, cuda: str | None = None) -> DockerImage:
    """Return NVIDIA's PyTorch image. ``cuda`` only confirms: each release comes with one version of CUDA."""
    tag, has = _known("PyTorch version", version, _NGC_PYTORCH)
    _confirm_cuda(version, cuda, has)
    return DockerImage(f"nvcr.io/nvidia/pytorch:{tag}", has, "24.04")


def runpod_pytorch(version: str = "2.8", *, cuda: str | None = None) -> DockerImage:
    """Return the PyTorch image that starts quickest there. ``cuda`` only confirms, as in ``pytorch``."""
    tag, has, system = _known("PyTorch version", version, _RUNPOD_PYTORCH)
    _confirm_cuda(version, cuda, has)
    return DockerImage(f"runpod/pytorch:{tag}", has, system)


def runpod_base(*, cuda: str = "12.9") -> DockerImage:
    """Return the base image, CUDA and no framework, that starts quickest there."""
    code = _known("CUDA version", cuda, _RUNPOD_BASE)
    return DockerImage(f"runpod/base:1.0.3-cuda{code}-ubuntu2204", cuda, "22.04")


def _known[T](what: str, version: str, table: dict[str, T]) -> T:
    _check.text("version", version)
    if version not in table:
        raise UnknownNameError(what, version, table)
    return table[version]


def _confirm_cuda(version: str, asked: str | None, has: str) -> None:
    if asked is not None and asked != has:
        raise ConfigError(f"the image of PyTorch {version} has CUDA {has}, not {asked!r}: leave cuda out")
