"""House rules that matter, as tests: who may import whom, where imports stand, how long a module
may grow, and what no committed file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml

from tests.services import compose

ROOT = Path(__file__).parent.parent

# package -> the packages of ours that it may import, besides itself
ARROWS = {
    "cdc": set[str](),
    "compaction": {"cdc"},
    "views": {"cdc", "compaction"},
    "sinks": {"cdc"},
}
OURS = {*ARROWS, "demo", "bench", "tests"}

MAX_LINES = 500
# A ratchet: modules that have outgrown the limit, with the size they may not pass. Only down.
LONGER: dict[str, int] = {}

# Spelled in pieces, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile(
    "|".join(["/work" + "/", "/var" + "/tmp/", "/root" + "/", "/home" + "/"])
)

# An import in every kind of statement that holds others.
DEEP = """try: import json
except ImportError: import csv
class A:
    def f(self):
        match 1:
            case 1:
                import one
        try:
            import two
        except OSError:
            import three
        else:
            with a: import four
"""

MODULES = sorted(file for package in ARROWS for file in (ROOT / package).rglob("*.py"))


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imported(node: ast.AST) -> Iterator[str]:
    """The top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module.split(".")[0]


def imports(node: ast.AST, local: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import statement below, and whether it stands inside a function. Expressions, most of
    a tree, hold none."""
    local |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for inner in getattr(node, part, ()):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                yield inner, local
            else:
                yield from imports(inner, local)


@cache
def parsed(source: str) -> list[tuple[ast.stmt, bool]]:
    return list(imports(ast.parse(source)))


def wrong_arrows(package: str, source: str) -> list[str]:
    allowed = ARROWS[package] | {package}
    return [
        f"line {node.lineno}: {package} may not import {target}"
        for node, _ in parsed(source)
        for target in imported(node)
        if target in OURS - allowed
    ]


def local_imports(source: str) -> list[int]:
    """Lines of imports inside functions without `# reason: …` on the line or on the one above."""
    lines = source.splitlines()
    return [
        node.lineno
        for node, local in parsed(source)
        if local
        if not any("# reason:" in line for line in lines[max(0, node.lineno - 2) : node.lineno])
    ]


def offenders(rule: Callable[[Path], Sequence[object]]) -> dict[str, Sequence[object]]:
    """What a rule finds, by module. One test for all modules: one for each would be a third of the
    tests that need no server, and say no more."""
    found = {name(file): rule(file) for file in MODULES}
    return {module: lines for module, lines in found.items() if lines}


def test_imports_follow_the_arrows() -> None:
    assert offenders(lambda file: wrong_arrows(name(file).split("/")[0], file.read_text())) == {}


def test_imports_stand_at_the_top() -> None:
    assert offenders(lambda file: local_imports(file.read_text())) == {}


def test_the_rules_catch_offenders() -> None:
    assert wrong_arrows("cdc", "from views.plan import Plan") != []
    assert wrong_arrows("sinks", "def f():\n    import compaction.runs") != []
    assert wrong_arrows("views", "from compaction import runs\nimport cdc.log, json") == []
    assert local_imports("def f():\n    import duckdb") == [2]
    assert local_imports("def f():\n    # reason: an extra\n    import duckdb") == []
    assert local_imports("import duckdb") == []
    assert local_imports(DEEP) == [7, 9, 11, 13]


def test_modules_fit_in_a_head() -> None:
    """Past the limit, look for a seam to cut along. A module that shrank lowers its entry."""
    sizes = {name(file): len(file.read_text().splitlines()) for file in MODULES}
    longer = {module: size for module, size in sizes.items() if size > MAX_LINES}
    assert longer == LONGER


def test_no_file_names_a_machines_paths() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / path for path in listed.stdout.decode().split("\0") if path]
    named = [
        f"{name(file)}:{number}"
        for file in files
        if file.is_file()
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert named == []


def test_every_container_says_when_it_is_healthy() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert compose.SERVICES.keys() <= services.keys()
    for service, definition in services.items():
        assert "healthcheck" in definition, service
        # ${<NAME>_PORT:-default}: what tests/services/compose.py sets
        variable = service.upper().replace("-", "_") + "_PORT"
        assert all(variable in port for port in definition["ports"]), service
