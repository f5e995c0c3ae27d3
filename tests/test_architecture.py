"""The rules of the house, checked on the source itself: who may import whom, and what no tracked file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GROUND_FLOOR = "mgvr_core"

# What a room may import besides itself. A new arrow is a decision: it belongs in docs/decisions, then here.
ANYWHERE = {"ahead", "errors", "config", "files", "identity", "products", "uris"}
ALLOWED = {
    "ahead": set(),
    "errors": set(),
    "files": set(),
    "products": set(),
    "config": set(),
    "identity": set(),
    "uris": set(),
    "scratch": set(),
    "storage": {"scratch"},
    "video": set(),
    "datasets": {"storage"},
    "scoring": set(),
    "scorers": {"scoring"},
    "features": {"storage"},
    "corpus": {"features", "scratch", "storage", "video"},
    "evaluation": {"scoring"},
    "model": {"scoring"},
    "retrieval": {"features", "scorers", "scoring"},
    "training": {"evaluation", "model", "retrieval", "scorers", "scoring"},
}

LONGEST_MODULE = 400

# The home of the image that the cluster launcher starts (ubuntu) is no machine of ours.
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:root|work|tmp|Users/\w+|home/(?!ubuntu/)\w+)/")
REGISTRY_HOST = re.compile(r"py(?:pi)[.]org|python(?:hosted)|registry[.]np(?:mjs)|deb(?:ian)[.]org", re.IGNORECASE)
INDEX_ADDRESS = re.compile(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b|://|\s@\s", re.M)


def modules() -> dict[str, Path]:
    """Every module of ours: its dotted name and its file."""
    found = {}
    for package in (GROUND_FLOOR, "pipelines"):
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports_of(name: str, file: Path) -> set[str]:
    """The dotted names that a module imports, anywhere in it; `from a import b` gives a.b where that is a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.update(
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source for alias in node.names
            )
    return found


IMPORTS = {name: imports_of(name, file) for name, file in MODULES.items()}


def tracked_files() -> list[Path]:
    """The files that a commit would hold, as far as they are text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:8000]]


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == GROUND_FLOOR])
def test_the_ground_floor_knows_neither_ray_nor_the_jobs(name: str) -> None:
    assert not {imported for imported in IMPORTS[name] if imported.split(".")[0] in {"ray", "pipelines"}}


def test_importing_the_ground_floor_does_not_load_ray() -> None:
    """Nor through a library: a decoder's child process must start fast and small."""
    names = [name for name in MODULES if name.split(".")[0] == GROUND_FLOOR]
    program = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names!r}]; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(f"{GROUND_FLOOR}.")])
def test_imports_go_downward_only(name: str) -> None:
    entered = {room(imported) for imported in IMPORTS[name] if imported.startswith(f"{GROUND_FLOOR}.")}
    assert entered <= {room(name), *ANYWHERE, *ALLOWED[room(name)]}


def test_every_room_has_its_rule() -> None:
    rooms = {room(name) for name in MODULES if name.startswith(f"{GROUND_FLOOR}.")}
    assert rooms == set(ALLOWED)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: {imported for imported in imports if imported in MODULES} for name, imports in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_read_in_one_sitting(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("file", ["requirements.lock", ".ci/bootstrap.txt"])
def test_every_package_is_pinned_with_hashes_and_no_index(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not INDEX_ADDRESS.findall(text)
    requirements = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.M)).splitlines()
    assert requirements
    for requirement in requirements:
        assert re.match(r"^[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", requirement), requirement.split(" ")[0]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_no_tracked_file_names_where_it_was_made(pattern: re.Pattern[str]) -> None:
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in tracked_files()
        if (match := pattern.search(file.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found
