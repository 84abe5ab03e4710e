"""Every accelerator of the catalogue is a typed name, and text means what it should."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyward import accelerators
from skyward.accelerators import Accelerator, Factory, catalog, from_name
from skyward.errors import ConfigError, UnknownNameError, UsageError

FUNCTIONS = {"H100", "H200", "A100", "V100"}
models = st.sampled_from(sorted(catalog.CATALOG))


def test_the_module_has_exactly_the_models_of_the_catalogue() -> None:
    declared = {name for name, kind in accelerators.__annotations__.items() if kind == "Factory"}
    assert declared | FUNCTIONS == {catalog.attribute(name) for name in catalog.CATALOG}


def test_no_two_names_differ_only_in_what_is_ignored() -> None:
    folded = {name.lower().replace(" ", "").replace("-", "") for name in catalog.CATALOG}
    assert len(folded) == len(catalog.CATALOG)


@given(models)
def test_each_name_makes_its_model(name: str) -> None:
    made = getattr(accelerators, catalog.attribute(name))(count=2)
    model = catalog.CATALOG[name]
    assert made.name == name
    assert made.memory_gb == model.memory_gb[0]
    assert (made.cuda_min, made.manufacturer, made.count) == (model.cuda_min, model.manufacturer, 2)
    assert (made.cuda_min is not None) == (made.manufacturer == "NVIDIA")
    assert pickle.loads(pickle.dumps(made)) == made


@given(models, st.sampled_from(["", " ", "-", "_"]), st.booleans(), st.sampled_from([1, 8, 0.5]))
def test_text_is_read_without_case_and_separators(name: str, mark: str, upper: bool, count: float) -> None:
    text = name.replace(" ", mark).replace("-", mark)
    text = text.upper() if upper else text.lower()
    assert from_name(f"{text}:{count}").name == name
    assert from_name(f"{text}:{count}").count == count
    smallest = catalog.CATALOG[name].memory_gb[-1]
    assert from_name(f"{text} {smallest}gb").memory_gb == smallest


@given(models, st.sampled_from([1, 2, 0.25]))
def test_the_suggested_python_means_the_same(name: str, count: float) -> None:
    text = f"{name}:{count}"
    python = accelerators.expression(text).removeprefix("sky.")
    assert eval(python, {"accelerators": accelerators}) == from_name(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A100", accelerators.A100()),
        ("a100-40gb", accelerators.A100(memory="40GB")),
        ("A100 40 GB:8", accelerators.A100(memory="40GB", count=8)),
        ("h100-sxm", accelerators.H100(form_factor="SXM")),
        ("H100_PCIe-80GB:4", accelerators.H100(form_factor="PCIe", memory="80GB", count=4)),
        ("H100 NVL", accelerators.H100_NVL()),
        ("rtx4090", accelerators.RTX_4090()),
        ("L4:0.5", accelerators.L4(count=0.5)),
        ("tpu_v5e-4", accelerators.TPUv5e_4()),
    ],
)
def test_text_with_suffixes(text: str, expected: Accelerator) -> None:
    assert from_name(text) == expected


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("A1000", UnknownNameError, "unknown accelerator 'A1000': did you mean 'A100' or 'A100X'?"),
        ("L4-SXM", UnknownNameError, "unknown accelerator 'L4-SXM'"),
        ("", UnknownNameError, "unknown accelerator ''"),
        ("A100-24GB", ConfigError, "memory of A100 must be one of '80GB', '40GB', not '24GB'"),
        ("A100:many", ConfigError, "'A100:many': a count such as ':8' must follow the colon"),
        ("A100:", ConfigError, "'A100:': a count such as ':8' must follow the colon"),
        ("A100:0", ConfigError, "count must be a number above 0, not 0"),
        ("A100:nan", ConfigError, "count must be a number above 0, not nan"),
        ("A100:1.5", ConfigError, "count must be a whole number, or a fraction of one below 1, not 1.5"),
    ],
)
def test_text_that_means_nothing(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        from_name(text)
    assert str(caught.value).startswith(message)


def test_forms_of_the_same_model() -> None:
    nvl = accelerators.H100(form_factor="NVL")
    assert (nvl.name, nvl.memory, nvl.form_factor) == ("H100-NVL", "94GB", "NVL")
    assert accelerators.H100(form_factor="SXM").name == accelerators.H100().name == "H100"
    assert accelerators.V100(memory="16GB").memory_gb == 16
    with pytest.raises(ConfigError, match=r"memory of H100-NVL must be one of '94GB', not '40GB'"):
        accelerators.H100(form_factor="NVL", memory="40GB")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda any_: any_.T4(memory="16GB"),
        lambda any_: any_.T4(2),
        lambda any_: any_.A100("40GB"),
        lambda any_: any_.A100(form_factor="SXM"),
        lambda any_: any_.A100(memory=40),
        lambda any_: any_.A100(count="8"),
        lambda any_: any_.Custom("X", memory=48),
        lambda any_: any_.Custom("X", cuda_min=12.8),
    ],
)
def test_wrong_arguments_fail_at_run_time(wrong: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError):
        wrong(accelerators)


def test_wrong_values_fail() -> None:
    with pytest.raises(ConfigError, match="memory must look like '48GB', not '48'"):
        accelerators.Custom("X", memory="48")
    with pytest.raises(ConfigError, match=r"cuda_min \(12\.8\) must not be above cuda_max \(12\.0\)"):
        accelerators.Custom("X", cuda_min="12.8", cuda_max="12.0")
    with pytest.raises(UsageError, match="count must be a number above 0, not True"):
        accelerators.L4(count=True)


def test_custom_and_count() -> None:
    custom = accelerators.Custom("My GPU", memory="1.5TB", count=2, cuda_min="9.2", cuda_max="12.10")
    assert custom.memory_gb == 1536
    assert accelerators.Custom("My GPU").memory_gb == 0
    assert custom.with_count(4) == accelerators.Custom(
        "My GPU", memory="1.5TB", count=4, cuda_min="9.2", cuda_max="12.10"
    )
    assert repr(accelerators.L4(count=8.0).count) == "8"


def test_a_misspelt_name_is_an_attribute_error_with_a_hint() -> None:
    with pytest.raises(AttributeError, match=r"did you mean sky\.accelerators\.RTX_4090"):
        _ = accelerators.RTX4090  # type: ignore[attr-defined]  # the error under test
    assert not hasattr(accelerators, "__wrapped__")
    assert isinstance(accelerators.RTX_4090, Factory)


def test_importing_them_loads_nothing_heavy() -> None:
    code = (
        "import sys, skyward.accelerators; heavy = ('asyncio', 'pydantic', 'pluggy', 'typing'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
