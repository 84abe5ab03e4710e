"""What a node is set up with: its environment, its bootstrap operations, its worker's command.

For a machine that is this computer nothing is installed: the image is checked against what is here, and what
differs is an error before anything starts, or a remark where it can't be known.
"""

from __future__ import annotations

import base64
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from skyward.errors import BootstrapError, ConfigError
from skyward.hooks.values import LaunchCommand, LaunchContext
from skyward.link.agentconfig import AgentConfig
from skyward.link.pickling import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skyward.engine.node import Node
    from skyward.engine.recipe import Recipe
    from skyward.engine.remote import Prepared
    from skyward.hooks.facade import PoolHooks
    from skyward.hooks.values import Op
    from skyward.image import Image
    from skyward.link.links import Link
    from skyward.link.modules import Project
    from skyward.metrics import Metric
    from skyward.spec import PoolSpec


def check_local_image(image: Image) -> list[str]:
    """Compare an image with this computer. Raises ConfigError for what is missing; remarks on the rest."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if image.python not in ("auto", here) and not image.python.startswith(here + "."):
        raise ConfigError(
            f"image asks for Python {image.python}, but Local runs in this script's own Python {here}: "
            f"leave python='auto', or run the script with {image.python}"
        )
    missing, unclear = _missing(image.pip)
    if missing:
        packages = " ".join(f"'{name}'" for name in missing)
        raise ConfigError(f"Local runs in this script's own environment, which lacks: pip install {packages}")
    remarks: list[str] = []
    if unclear:
        remarks.append(f"Local uses this script's own environment: not checked for {', '.join(unclear)}")
    if image.includes:
        remarks.append("Local runs where the script runs: includes are not copied")
    if image.apt:
        remarks.append(
            f"Local uses this computer as it is: apt packages are not installed ({', '.join(image.apt)})"
        )
    return remarks


def _missing(requirements: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which requirements are not installed, going by their names, and for which that can't be told."""
    import re

    import importlib_metadata

    missing: list[str] = []
    unclear: list[str] = []
    for requirement in requirements:
        match = re.fullmatch(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*(.*)", requirement)
        if match is None or match[2][:1] not in ("", "<", ">", "=", "!", "~", "(", "@"):
            unclear.append(requirement)  # a path, a URL without a name, or one for certain systems only
            continue
        try:
            importlib_metadata.version(match[1])
        except importlib_metadata.PackageNotFoundError:
            missing.append(requirement)
    return missing, unclear


async def bootstrap(node: Node, link: Link, image: Image, ops: tuple[Op, ...]) -> dict[str, str]:
    """Run what the image and the plugins ask for on the node; return the environment of its workers."""
    env = dict(image.env)
    if image.shell_vars:
        with node.timed_phase("shell_vars"):
            for name, command in image.shell_vars.items():
                env[name] = (await _run(node, link, "shell_vars", command, env)).strip()
    if ops:
        with node.timed_phase("bootstrap"):
            for op in ops:
                await _run(node, link, "bootstrap", op, env)
    return env


async def _run(node: Node, link: Link, phase: str, op: Op, env: dict[str, str]) -> str:
    status, output = await link.run(op, env)
    if status:
        shown = op if isinstance(op, str) else " ".join(op)
        tail = "\n".join(output.strip().splitlines()[-20:])
        raise BootstrapError(
            f"node {node.rank}, phase {phase}: `{shown}` ended with status {status}: {tail or 'no output'}",
            phase=phase,
            tail=tail,
            rank=node.rank,
            machine=node.machine.id,
        )
    return output


def remote_recipe(image: Image, plugins: Iterable[object], timeout: float) -> Recipe:
    """Find out what a node that is somewhere else is set up with. Reads files: for a thread.

    ``timeout``: seconds without progress. Raises ConfigError for what a node can't be asked for.
    """
    from skyward.engine.includes import bundle_of
    from skyward.engine.recipe import make_recipe
    from skyward.engine.wheels import cargo_for

    bundle = bundle_of(image.includes, image.excludes)
    recipe = make_recipe(image, cargo_for(image.skyward_source, plugins), bundle)
    return replace(recipe, timeout=timeout)


def agent_config(
    spec: PoolSpec,
    hooks: PoolHooks,
    project: Project,
    *,
    rank: int,
    facts: dict[str, Any],
    prepared: Prepared,
    no_collections: str | None,
    metrics: Iterable[Metric],
    health: dict[str, Any] | None,
    memento: str,
) -> AgentConfig:
    """Put together what a node's agent is told."""
    executor = "process" if spec.worker.executor == "process" else "thread"
    context = LaunchContext(
        node=rank,
        num_nodes=int(facts.get("total_nodes", 1)),
        head_addr=str(facts.get("head_addr", "")),
        private_ip="",
        python=prepared.python,
        concurrency=spec.worker.concurrency,
        executor=executor,
    )
    command = hooks.launch(
        LaunchCommand(launcher=(prepared.python, "-P"), entrypoint=("-m", "skyward.node.worker")), context
    )
    plugins, sources = "", []
    if spec.plugins:
        pickled = dumps(list(spec.plugins), is_project_module=project.is_project_module)
        plugins = base64.b64encode(pickled.data).decode()
        sources = [source.to_json() for source in project.closure(pickled.modules).values()]
    return AgentConfig(
        ttl=spec.ttl,
        executor=executor,
        concurrency=spec.worker.concurrency,
        reuse=spec.worker.reuse_processes,
        launch=list(command.argv),
        env=dict(prepared.env),
        cwd=prepared.cwd,
        facts=facts,
        plugins=plugins,
        sources=sources,
        around_worker=hooks.has("skyward_worker"),
        no_collections=no_collections,
        metrics=[asdict(metric) for metric in metrics],
        health=health,
        memento=memento,
    )
