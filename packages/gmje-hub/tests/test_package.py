"""The package itself: its command line answers without torch and without the Hub's client."""

import subprocess
import sys

import pytest

import gmje_hub

SLOW = ("torch", "torchvision", "timm", "huggingface_hub", "gmje_core", "sklearn", "scipy", "pandas", "matplotlib")


@pytest.mark.parametrize("module", ["gmje_hub", "gmje_hub.cli"])
def test_importing_the_package_loads_no_slow_library(module):
    code = f"import sys, {module}; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_public_name_is_there():
    assert all(hasattr(gmje_hub, name) for name in gmje_hub.__all__)
    with pytest.raises(AttributeError, match="no attribute 'GMJEModle'"):
        _ = gmje_hub.GMJEModle
