"""The package as it is installed: built, in a fresh environment, and used there."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
import yaml
from commands import ROOT

import moco_tf

TRAIN = (
    "train --config demo --encoder.width=4 --data.image_size=16 --train.epochs=1 "
    "--train.steps_per_epoch=2 --train.batch_size=32 --method.queue_size=64 "
    "--monitor.max_train=300 --monitor.max_test=100 --monitor.linear=false"
).split()
EVALUATE = "evaluate knn runs/demo --k=[5]".split()
EXPORT = "export runs/demo --to keras encoder.keras".split()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist that it was built from."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("not a checkout, so there is nothing to build")
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    _run([*words, str(ROOT)], ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def _run(words, folder):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def _fresh_environment(folder):
    """An empty environment; the folder of its programs and that of its packages."""
    _run([sys.executable, "-m", "venv", folder], ROOT)
    scheme = "nt" if os.name == "nt" else "posix_prefix"
    paths = sysconfig.get_paths(scheme, {"base": folder, "platbase": folder})
    return pathlib.Path(paths["scripts"]), pathlib.Path(paths["purelib"])


def _use(programs, folder):
    """Trains, evaluates and exports with the installed command; what it printed."""
    command = programs / "moco-tf"
    place = "import moco_tf; print(moco_tf.__file__, moco_tf.__version__)"
    where, version = _run([programs / "python", "-c", place], folder).split()
    assert not pathlib.Path(where).is_relative_to(ROOT)
    assert version == moco_tf.__version__
    printed = _run([command, *TRAIN], folder)
    _run([command, *EVALUATE], folder)
    _run([command, *EXPORT], folder)
    assert (folder / "runs/demo/report/knn/results.json").is_file()
    assert (folder / "encoder.keras").stat().st_size > 1000
    return printed


def test_wheel_and_sdist_hold_what_they_should(built):
    wheel, sdist = built
    inside = zipfile.ZipFile(wheel).namelist()
    assert "moco_tf/py.typed" in inside
    recipes = {path.name for path in (ROOT / "configs").rglob("*.yaml")}
    assert {pathlib.Path(p).name for p in inside if p.endswith(".yaml")} == recipes
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "moco_tf").rglob("*.py")}
    assert modules == {p for p in inside if p.endswith(".py")}
    parts = {path.name for path in (ROOT / "moco_tf/report/page").glob("*.[hcj]*")}
    assert len(parts) == 5 and {f"moco_tf/report/page/{n}" for n in parts} <= {*inside}
    assert not [p for p in inside if p.startswith(("tests/", "benchmarks/", "docs/"))]
    names = [name.partition("/")[2] for name in tarfile.open(sdist).getnames()]
    for name in ("train.py", "evaluate.py", "tests/conftest.py", "constraints.txt"):
        assert name in names
    assert not [n for n in names if n.startswith((".venv", "runs"))]


def test_version_stands_in_one_place_and_elsewhere_agrees():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == moco_tf.__version__
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert newest.startswith(moco_tf.__version__)


def test_package_imports_without_modules_that_only_unix_has(tmp_path):
    program = (
        "import pkgutil, sys\n"
        "for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "import importlib, moco_tf\n"
        "for module in pkgutil.walk_packages(moco_tf.__path__, 'moco_tf.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    _run([sys.executable, "-c", program], tmp_path)


def test_wheel_works_outside_the_checkout(built, tmp_path):
    programs, packages = _fresh_environment(tmp_path / "env")
    # The dependencies of this environment are lent, but not its moco_tf: a folder that
    # is named in a .pth file has its own .pth files left unread.
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"])
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--no-index"]
    _run([*pip, "--no-deps", built[0]], tmp_path)
    printed = _use(programs, tmp_path)
    # The hints run as printed: the command is not on the path here.
    assert f"{os.path.join('env', 'bin', 'moco-tf')} evaluate linear" in printed


@pytest.mark.slow  # fetches every dependency
def test_wheel_brings_all_it_needs(built, tmp_path):
    programs, _ = _fresh_environment(tmp_path / "env")
    lane = "-current" if sys.version_info >= (3, 12) else ""
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint"]
    _run([*pip, ROOT / f"constraints{lane}.txt", built[0]], tmp_path)
    _use(programs, tmp_path)
