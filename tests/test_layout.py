"""The package's imports run one way, from higher tiers to lower ones."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "moco_tf"
TIERS = (
    (
        "lanes",
        "lazy",
        "log",
        "mistakes",
        "stops",
    ),
    ("cluster", "exchange", "paths", "pixels"),
    ("shell",),
    ("config",),
    (
        "distribution",
        "optimizers",
        "precision",
        "data",
        "augment",
        "encoders",
    ),
    ("contrast",),
    ("interchange", "methods"),
    ("report",),
    ("evaluation",),
    ("callbacks",),
    ("pretrain",),
    ("cli",),
)
TIER = {name: tier for tier, names in enumerate(TIERS) for name in names}


def test_modules_import_only_from_lower_tiers_or_their_own_folder():
    seen = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        seen.add(room)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            parts = node.module.split(".")
            if parts[0] != "moco_tf":
                continue
            targets = parts[1:2] or [alias.name for alias in node.names]
            for target in targets:
                lower = TIER[target] < TIER[room]
                assert target == room or lower, f"{path} imports {target}"
    assert seen == set(TIER)


def _imported(path):
    """Modules of the package that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "moco_tf"
        ):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _file_of(module):
    """The file that an imported name stands for or in; None outside the package."""
    if module.split(".")[0] != "moco_tf":
        return None
    place = PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (place.with_suffix(".py"), place / "__init__.py"):
        if candidate.is_file():
            return candidate
    return _file_of(module.rpartition(".")[0])


def test_no_file_imports_itself_in_a_circle():
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]
    needs = {
        path: {found for name in _imported(path) if (found := _file_of(name))} - {path}
        for path in files
    }
    done, open_ = set(), []

    def visit(path):
        if path in open_:
            circle = [
                p.relative_to(PACKAGE).as_posix() for p in open_[open_.index(path) :]
            ]
            raise AssertionError(f"a circle of imports: {' -> '.join(circle)}")
        if path in done:
            return
        open_.append(path)
        for needed in sorted(needs.get(path, ())):
            # The package's own front door brings names only when they are asked for.
            if needed.parent != PACKAGE:
                visit(needed)
        done.add(open_.pop())

    for path in files:
        visit(path)
