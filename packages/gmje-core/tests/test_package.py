"""The package itself: what importing it loads, and where a name that has moved is said to be."""

import subprocess
import sys

import pytest

import gmje_core

SLOW = ("torchvision", "timm", "torch._dynamo", "sklearn", "scipy", "pandas", "matplotlib")


def test_importing_the_package_loads_no_slow_library():
    code = f"import sys, gmje_core; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_importing_the_package_loads_only_its_errors():
    code = "import sys, gmje_core; print(sorted(name for name in sys.modules if name.startswith('gmje_core.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['gmje_core.errors']", done.stdout + done.stderr


def test_every_public_name_is_there():
    assert all(hasattr(gmje_core, name) for name in gmje_core.__all__)
    assert set(gmje_core.__all__) <= set(dir(gmje_core))


def test_a_room_is_loaded_on_its_first_use():
    code = "import gmje_core; print(gmje_core.diagnostics.__name__, gmje_core.criteria.GMJE is gmje_core.GMJE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["gmje_core.diagnostics", "True"], done.stdout + done.stderr


def test_the_public_model_is_named_where_it_is_looked_for():
    with pytest.raises(ImportError, match="GMJEModel is in gmje_hub: from gmje_hub import GMJEModel"):
        from gmje_core import GMJEModel  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'GMJEModle'"):
        _ = gmje_core.GMJEModle
