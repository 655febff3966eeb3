"""Every check in one place: ``uv run nox -s tests``, ``lint``, ``types``; ``uv run nox -l`` lists them all."""

import hashlib
import os
import re
import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = ("core", "bench", "hub")
#: From pytest 9.2 on pytest-xdist 3.8 ignores the groups of tests that share a fixture, and sets it up on every worker.
TEST_TOOLS = ("pytest>=8.3,<9.2", "pytest-xdist>=3.6", "scipy>=1.13")
#: What the tests of a package compare it with, or try with it.
PEERS = {"core": ("scikit-learn>=1.6",), "hub": ("datasets>=4.0", "timm>=1.0.15")}
#: What the speed programs compare with, besides what the harness needs itself.
SPEED_PEERS: tuple[str, ...] = (
    "faiss-cpu>=1.9",  # exact search of inner products, what a user would take for a kNN
)
#: What the examples show the criteria in; no package depends on it.
INTEGRATIONS = ("lightly>=1.5", "lightning>=2.5", "timm>=1.0.15", "transformers>=4.50")
#: Optional parts of a package that its tests need.
EXTRAS = {"core": "[timm]", "hub": "[onnx]"}
#: What builds the site. They are pinned here, not in constraints.txt, which is about what the packages run with.
SITE_TOOLS = (
    "sphinx>=9,<10",
    "furo>=2025.12.19",
    "myst-nb>=1.4",  # Markdown and notebooks as pages
    "sphinx-copybutton>=0.5.2",
    "sphinx-design>=0.8",  # cards
    "sphinx-mathjax-offline==0.0.2",  # the files of MathJax 3.2.2
)
#: The tests' tensors are small: with more threads they would mostly wait for each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}


def install(session: nox.Session, *arguments: str, constrained: bool = True) -> None:
    """The one way to install: always under the tested versions, unless lower bounds are what is tested.

    Bytecode is compiled here, once: where Python must not write any, each of the tests' many processes would do it.
    """
    constraints = ("--constraint", str(CONSTRAINTS)) if constrained else ("--resolution", "lowest-direct")
    session.install("--compile-bytecode", *arguments, *constraints)


def folder(package: str) -> Path:
    return ROOT / "packages" / f"gmje-{package}"


def siblings(package: str) -> list[str]:
    """The workspace packages that a package declares; what it does not declare is not installed."""
    project = tomllib.loads((folder(package) / "pyproject.toml").read_text())["project"]
    names = {dependency.split("=")[0].split("[")[0].strip() for dependency in project["dependencies"]}
    return [name for name in PACKAGES if f"gmje-{name}" in names]


def sources() -> dict[str, str]:
    """The environment in which the sources are used as they are; an installed copy may be older than they."""
    return {"PYTHONPATH": os.pathsep.join(str(folder(name) / "src") for name in PACKAGES)}


def run_tests(session: nox.Session, package: str) -> None:
    """Unit tests and doctests of a package, or what the caller asks for instead."""
    source = folder(package) / "src" / f"gmje_{package}"
    targets = session.posargs or [str(folder(package) / "tests"), str(source)]
    parallel = ("-n", "auto", "--dist", "loadgroup")
    session.run("pytest", "--doctest-modules", *parallel, "--durations=15", *targets, env=ENVIRONMENT)


def local(package: str, extras: str = "") -> list[str]:
    return [*(str(folder(name)) for name in siblings(package)), f"{folder(package)}{extras}"]


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """Tests of every package, each installed alone with its declared siblings; arguments go to pytest."""
    install(session, *local(package, EXTRAS.get(package, "")), *TEST_TOOLS, *PEERS.get(package, ()))
    run_tests(session, package)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests_lowest(session: nox.Session, package: str) -> None:
    """The same tests on the lowest versions that each pyproject.toml allows."""
    everything = (*local(package, EXTRAS.get(package, "")), *TEST_TOOLS, *PEERS.get(package, ()))
    install(session, *everything, constrained=False)
    run_tests(session, package)


@nox.session
def examples(session: nox.Session) -> None:
    """The examples of ``docs/examples/loops``, with the tools that they are for."""
    install(session, *local("bench"), *TEST_TOOLS, *INTEGRATIONS)
    session.run("pytest", "-n", "auto", *(session.posargs or ["docs/examples"]), env=ENVIRONMENT)


@nox.session
def notebooks(session: nox.Session) -> None:
    """Run the notebooks, each in a fresh kernel; a cell that raises is an error, and so is what ruff finds in them."""
    install(session, *local("bench"), "ruff", *SITE_TOOLS)
    output = Path(session.create_tmp()) / "notebooks"
    output.mkdir(exist_ok=True)
    names = session.posargs or sorted(page.stem for page in ROOT.glob("docs/notebooks/*.md"))
    made = [str(output / f"{name}.ipynb") for name in names]
    for name, notebook in zip(names, made, strict=True):
        session.run("mystnb-to-jupyter", "--overwrite", f"docs/notebooks/{name}.md", notebook, silent=True)
    style = ("--config", "pyproject.toml")
    session.run("ruff", "check", *style, *made)
    session.run("ruff", "format", *style, "--diff", *made)
    for notebook in made:
        session.run("jupyter", "execute", "--inplace", "--timeout=600", notebook, env=sources() | ENVIRONMENT)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, which module may import which, and one version for all packages."""
    install(session, "ruff", "import-linter")
    versions = {name: tomllib.loads((folder(name) / "pyproject.toml").read_text())["project"] for name in PACKAGES}
    if len({project["version"] for project in versions.values()}) > 1:
        session.error(f"versions differ: { {name: p['version'] for name, p in versions.items()} }")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env=sources())


@nox.session
def types(session: nox.Session) -> None:
    """Mypy in strict mode on all packages."""
    install(session, *(str(folder(package)) for package in PACKAGES), "mypy")
    session.run("mypy", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every wheel and use them outside the repository, embedded data and suites included."""
    output = Path(session.create_tmp()) / "wheels"
    session.run("uv", "build", "--all-packages", "--wheel", "--clear", "--out-dir", str(output), external=True)
    install(session, *(str(path) for path in sorted(output.glob("*.whl"))))
    session.cd(session.create_tmp())
    environment = ENVIRONMENT | {"PYTHONPATH": ""}
    session.run("python", "-m", "gmje_bench", "list", env=environment)
    check = (
        "import gmje_core, gmje_hub; from gmje_bench.datasets import load_dataset; "
        "assert 'site-packages' in gmje_core.__file__, gmje_core.__file__; "
        "assert len(load_dataset('fashion_mnist_12k').train) == 10_000; "
        "from importlib.resources import files; assert (files('gmje_bench.report') / 'page.html.j2').is_file()"
    )
    session.run("python", "-c", check, env=environment)


@nox.session
def release(session: nox.Session) -> None:
    """What a release needs, ``nox -s release -- 0.1.0``: that version everywhere, its part of the changelog, wheels."""
    if len(session.posargs) != 1:
        session.error("say which version is to be released: nox -s release -- 0.1.0")
    version = re.escape(session.posargs[0])
    projects = [ROOT / "pyproject.toml", *(folder(name) / "pyproject.toml" for name in PACKAGES)]
    modules = [folder(name) / "src" / f"gmje_{name}" / "__init__.py" for name in PACKAGES]
    wanted = {
        **dict.fromkeys(projects, rf'^version = "{version}"$'),
        **dict.fromkeys(modules, rf'^__version__ = "{version}"$'),
        ROOT / "CITATION.cff": rf"^version: {version}$",
        ROOT / "CHANGELOG.md": rf"^## \[{version}\] - \d{{4}}-\d{{2}}-\d{{2}}$",
    }
    lacking = [
        f"{path.relative_to(ROOT)} has no line {pattern}"
        for path, pattern in wanted.items()
        if not re.search(pattern, path.read_text(), re.MULTILINE)
    ]
    if lacking:
        session.error("\n  ".join(["not ready to be released:", *lacking]))
    session.notify("wheels")


@nox.session
def smoke(session: nox.Session) -> None:
    """The smoke suite on two processes, launched as the harness's README prints it."""
    install(session, *local("bench"))
    output = Path(session.create_tmp()) / "smoke"
    arguments = ["--suite", "smoke", "--processes", "2", "--output", str(output), "--overwrite", *session.posargs]
    # Two processes need two GPUs or none: without any in sight they run on CPUs everywhere.
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if output.exists() and not (output / "results.json").exists():
        output.rmdir()
    session.run(
        "torchrun", "--standalone", "--nproc_per_node", "2", "-m", "gmje_bench", "run", *arguments, env=environment
    )


@nox.session
def figures(session: nox.Session) -> None:
    """Draw the pictures of the docs and of the recorded results again; arguments name scripts of ``docs/figures``."""
    install(session, *local("bench"))
    helpers = ("themes", "tables")
    scripts = sorted(path.stem for path in ROOT.glob("docs/figures/*.py") if path.stem not in helpers)
    names = session.posargs or scripts
    for name in names:
        session.run("python", f"docs/figures/{name}.py", env=ENVIRONMENT)


def notebook_cache(session: nox.Session) -> Path:
    """Where outputs of notebooks are kept: another folder for every state of the sources that they run."""
    digest = hashlib.sha256()
    for path in sorted(path for name in PACKAGES for path in (folder(name) / "src").rglob("*") if path.is_file()):
        if "__pycache__" not in path.parts:
            digest.update(path.read_bytes())
    return Path(session.create_tmp()) / "outputs" / digest.hexdigest()[:16]


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into ``site/``, its notebooks run; a warning, a dead link or a missing anchor is an error."""
    install(session, *(str(folder(package)) for package in PACKAGES), *SITE_TOOLS)
    pages, site = Path(session.create_tmp()) / "sources", ROOT / "site"
    session.run("python", "docs/site/stage.py", str(pages))
    environment = ENVIRONMENT | sources() | {"NOTEBOOK_CACHE": str(notebook_cache(session))}
    command = ("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "--jobs", "auto")
    session.run(*command, "-c", "docs/site", *session.posargs, str(pages), str(site), env=environment)
    session.run("python", "docs/site/links.py", str(site))
    session.log(f"the site: {site / 'index.html'}")


@nox.session
def bench_speed(session: nox.Session) -> None:
    """Every speed row beside its peer, in one table; arguments go to the driver."""
    install(session, *local("bench"), *SPEED_PEERS)
    session.run("python", "benchmarks/speed", *session.posargs, env=dict(os.environ))
