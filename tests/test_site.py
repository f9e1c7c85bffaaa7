"""The site: its list of pages, its API, its links; built where MkDocs is at hand."""

import ast
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import yaml
from commands import ROOT
from doc_commands import PAGES

from benchmarks import curves

DOCS = ROOT / "docs"
ROOMS = ("augment", "callbacks", "config", "contrast", "data", "encoders", "evaluation",
         "interchange", "methods", "pretrain", "report")  # fmt: skip


def leaves(nav):
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [value] if isinstance(value, str) else leaves(value)


def test_nav_has_every_page_of_docs_and_no_other():
    nav = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(nav) == len(set(nav))
    assert pages - set(nav) == set(), "add these to nav in mkdocs.yml"
    assert set(nav) - pages == set(), "mkdocs.yml names pages that are not there"


def test_api_pages_name_all_that_is_public():
    named = set()
    for page in (DOCS / "api").glob("*.md"):
        named |= set(re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M))
    public = {f"moco_tf.{name}" for name in exported("") if name not in ROOMS}
    for room in ROOMS:
        public |= {f"moco_tf.{room}.{name}" for name in exported(room)}
    # Methods have their names at the top; these two modules list no names.
    methods = {f"moco_tf.{name}" for name in exported("methods")}
    missing = {
        name
        for name in public - named
        if name.replace(".methods.", ".") not in named & methods
    } - {"moco_tf.optimizers", "moco_tf.distribution"}
    assert not missing, "add these to docs/api"


def exported(room):
    """`__all__` of a package, read without importing it."""
    tree = ast.parse((ROOT / "moco_tf" / room / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return [element.value for element in node.value.elts]
    raise AssertionError(f"moco_tf.{room} has no __all__")


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_page_on_curves_has_each_run_its_settings_and_its_sentences():
    page = " ".join((DOCS / "curves.md").read_text().replace("\n> ", " ").split())
    histories = curves.read(DOCS / "tables" / "curves.csv")
    for run in curves.RUNS:
        for word in run.overrides:
            assert word.endswith("FOLDER") or f"`{word}`" in page
        if run.name not in histories:
            missing = f"`python -m benchmarks.curves --only {run.name}`"
            assert f"**Not yet run** ({missing})" in page
        drawn = any(row["loss"] for row in histories.get(run.name, ()))
        assert (f"](images/curves_{run.name}.png)" in page) == drawn
    for rows in curves.read(DOCS / "tables" / "curves_said.csv").values():
        assert all(row["said"] in page for row in rows)


def test_curves_are_drawn_from_the_committed_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(curves, "IMAGES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["curves.py", "--plot_only"])
    curves.main()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {path.name for path in (DOCS / "images").glob("curves_*.png")}


def test_site_builds_strictly(tmp_path):
    python = ROOT / ".venv-docs" / "bin" / "python"
    if not python.exists():
        if any(map(absent, ("mkdocs", "material", "mkdocstrings"))):
            pytest.skip("MkDocs is not installed; `make docs` installs and builds")
        python = sys.executable
    done = subprocess.run(
        [python, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "site" / "api" / "methods.html").read_text()
    assert "Momentum Contrast: queries against a queue" in built  # the docstring
    copy = "repository/benchmarks/results/knn.csv.txt"
    assert copy in (tmp_path / "site" / "evaluation.html").read_text()
    assert (tmp_path / "site" / copy).is_file()
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"',
                            page.read_text())  # fmt: skip
        assert not loaded, f"{page.name} loads {loaded}"


def absent(module):
    return importlib.util.find_spec(module) is None
