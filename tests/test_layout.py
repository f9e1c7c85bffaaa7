"""The package's imports run one way, from higher tiers to lower ones."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "moco_tf"
TIERS = (
    (
        "lanes",
        "log",
        "mistakes",
        "shell",
    ),
    (
        "config",
        "distribution",
        "optimizers",
        "precision",
        "data",
        "augment",
        "encoders",
    ),
    ("contrast",),
    ("interchange", "methods"),
    ("evaluation",),
    ("report",),
    ("callbacks",),
    ("pretrain", "protocols"),
    ("sweep",),
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
