"""What is loaded for whom, and that all that is promised is there."""

from __future__ import annotations

import ast
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import ntps_lightning

PACKAGE = Path(ntps_lightning.__file__).parent
HEAVY = ("torchmetrics", "lightning", "transformers", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("next_token_perception_score", HEAVY),
        ("ScoreOptions", HEAVY),
        # torchmetrics itself loads transformers and matplotlib.
        ("NextTokenPerceptionScore", ("lightning",)),
        ("NTPSMonitor", ("lightning",)),
        ("capture_representations", ("lightning", "torchmetrics", "matplotlib")),
    ],
)
def test_a_name_loads_no_more_than_it_needs(name, spared):
    assert not loaded_after(f"from ntps_lightning import {name}") & set(spared)


def test_the_doctor_loads_none_of_what_it_lists():
    assert not loaded_after("from ntps_lightning.command.doctor import examine; examine()")


def test_the_help_of_prescreening_loads_nothing():
    lines = [
        "import contextlib, io",
        "from ntps_lightning.command.main import main",
        "quiet = contextlib.redirect_stdout(io.StringIO())",
        "with contextlib.suppress(SystemExit), quiet: main(['prescreen', '--help'])",
    ]
    assert not loaded_after("\n".join(lines)) & set(HEAVY)


def test_every_public_name_is_there_and_listed():
    assert set(ntps_lightning.__all__) <= set(dir(ntps_lightning))
    for name in ntps_lightning.__all__:
        assert getattr(ntps_lightning, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'ntps_lightning' has no attribute 'nothing'"):
        _ = ntps_lightning.nothing  # type: ignore[attr-defined]


def test_type_hints_can_be_read_at_run_time():
    for entry in (ntps_lightning.next_token_perception_score, ntps_lightning.NTPSMonitor.__init__):
        assert "options" in typing.get_type_hints(entry)


def test_editors_see_the_names_that_are_loaded_late():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    names = {alias.name for node in imports for alias in node.names} - {"import_module"}
    assert names == set(ntps_lightning.__all__)


# What each may import beside itself, as ARCHITECTURE.md draws it.
BELOW = {
    "errors": set(),
    "versions": set(),
    "distributed": {"errors"},
    "batch_items": {"errors"},
    "functional": {"versions"},
    "available": set(),
    "memory": {"available", "errors", "functional"},
    "metric": {"distributed", "functional"},
    "capture": {"errors", "distributed"},
    "figures": {"functional"},
    "side_set": {"errors", "batch_items", "functional"},
    "monitor": {"errors", "distributed", "functional", "memory", "metric", "capture"},
    "watch": {"errors", "batch_items", "distributed", "functional", "side_set", "capture", "monitor"},
    "callback": {
        "errors",
        "versions",
        "batch_items",
        "distributed",
        "functional",
        "capture",
        "figures",
        "monitor",
        "watch",
    },
    "hub": set(),
    "model_files": {"errors", "hub"},
    "adapters": {"model_files", "capture"},
    "prescreening": {
        "errors",
        "hub",
        "model_files",
        "adapters",
        "available",
        "distributed",
        "functional",
        "side_set",
        "capture",
        "figures",
        "monitor",
    },
    "command": {
        "errors",
        "distributed",
        "model_files",
        "adapters",
        "available",
        "memory",
        "functional",
        "capture",
        "prescreening",
    },
    "__main__": {"command"},
    "huggingface": {"errors", "batch_items", "distributed", "functional", "capture", "monitor", "watch"},
}


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {f"{module}.__init__".split(".")[1] for module in modules if module.split(".")[0] == "ntps_lightning"}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    room = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if room != "__init__":
        assert imports_of(file) <= {room} | BELOW[room]


def test_what_the_mathematics_asks_of_versions_loads_no_more():
    assert not loaded_after("import ntps_lightning.versions") & set(HEAVY)


def test_the_mathematics_imports_torch_and_the_standard_library_alone():
    for file in (PACKAGE / "functional").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {module.split(".")[0] for module in modules}
            # typing_extensions is for type checkers, and comes with torch.
            assert roots <= {*sys.stdlib_module_names, "torch", "ntps_lightning", "typing_extensions"}, file.name
            ours = {module.split(".")[1] for module in modules if module.startswith("ntps_lightning.")}
            assert ours <= {"functional", "versions"}
