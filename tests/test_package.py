"""What importing the package needs, and what it does not."""

import subprocess
import sys

import pytest

import ovseg_jax

WITHOUT_OPTIONAL = """
import importlib, pkgutil, sys

BLOCKED = {"tensorflow", "torch", "clu", "tensorflow_datasets"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
for package in ("ovseg_jax", "data_pipelines"):
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, f"{package}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
            print(found.name)
"""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_every_module_imports_without_tensorflow_and_torch():
    names = python(WITHOUT_OPTIONAL).stdout.split()
    assert {"ovseg_jax.train", "ovseg_jax.cli", "data_pipelines.loader"} <= set(names)


def test_the_package_is_light_until_a_model_is_loaded():
    shown = python(
        "import sys, ovseg_jax; print('jax' in sys.modules, 'numpy' in sys.modules);"
        "ovseg_jax.load; print('jax' in sys.modules)"
    )
    assert shown.stdout.split() == ["False", "False", "True"]


def test_public_names():
    from ovseg_jax.errors import UserError
    from ovseg_jax.predict import load

    assert ovseg_jax.load is load and ovseg_jax.UserError is UserError
    assert set(ovseg_jax.__all__) == {"UserError", "__version__", "load"}
    with pytest.raises(AttributeError, match="no attribute 'loud'"):
        ovseg_jax.loud  # noqa: B018
