"""The hooks' reference is complete: every hook is documented, known to the façade, and really called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from skyward.hooks import PoolHooks, hookimpl, specs
from skyward.hooks.facade import HOOKS
from skyward.image import Image

SPECS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(specs).items() if hasattr(value, "skyward_spec")
}


def test_the_facade_knows_exactly_the_specs_and_their_arguments() -> None:
    found = {name: tuple(inspect.signature(spec).parameters) for name, spec in SPECS.items()}
    assert found == HOOKS


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_fully_documented(name: str) -> None:
    text = inspect.getdoc(SPECS[name]) or ""
    first, _, rest = text.partition("\n")
    assert first.endswith((".", ":"))
    assert rest.startswith("\n")
    for argument in HOOKS[name]:
        assert f"``{argument}``" in rest, f"{name} does not say what {argument!r} is"
    for sentence in ("Called ", "Return "):  # by whom, where, when; and what it gives
        assert sentence in rest, f"{name} has no sentence that begins with {sentence!r}"
    assert " once " in rest or " each " in rest, f"{name} does not say how often it is called"
    assert "client" in rest or "node" in rest, f"{name} does not say where it runs"
    annotations = inspect.signature(SPECS[name]).parameters.values()
    assert all(parameter.annotation is not parameter.empty for parameter in annotations)


def test_a_spec_is_never_called_as_a_default() -> None:
    for name, arguments in HOOKS.items():
        with pytest.raises(NotImplementedError):
            SPECS[name](*arguments)


def test_the_facade_calls_every_hook(cluster: Any, command: Any, context: Any, info: Any) -> None:
    called: dict[str, dict[str, Any]] = {}
    answers: dict[str, Any] = {
        "skyward_image": None,
        "skyward_bootstrap": (),
        "skyward_launch": command,
        "skyward_client": nullcontext(),
        "skyward_worker": nullcontext(),
        "skyward_process": nullcontext(),
        "skyward_task": len,
    }

    def recording(name: str) -> Any:
        def record(self: object, *values: Any) -> Any:
            called[name] = dict(zip(HOOKS[name], values, strict=True))
            return answers[name]

        parameters = [
            inspect.Parameter(argument, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for argument in ("self", *HOOKS[name])
        ]
        record.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return hookimpl(record)

    plugin = type("Recording", (), {name: recording(name) for name in HOOKS})()
    hooks, image, pool = PoolHooks([plugin]), Image(), object()
    given: Any = pool
    hooks.image(image, cluster)
    hooks.bootstrap(cluster)
    hooks.launch(command, context)
    with hooks.client(given, cluster), hooks.worker(info), hooks.process(info):
        hooks.task(len)
    assert called == {
        "skyward_image": {"image": image, "cluster": cluster},
        "skyward_bootstrap": {"cluster": cluster},
        "skyward_launch": {"command": command, "context": context},
        "skyward_client": {"pool": pool, "cluster": cluster},
        "skyward_worker": {"info": info},
        "skyward_process": {"info": info},
        "skyward_task": {"fn": len},
    }
    assert called.keys() == SPECS.keys()
