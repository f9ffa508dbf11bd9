"""ARCHITECTURE.md is true, and files and functions stay short enough to read."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "isoflop"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
C_FILES = sorted(path for pattern in ("*.c", "*.h") for path in PACKAGE.rglob(pattern))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50


def test_every_source_file_stands_once_on_the_architecture_page():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    listed = re.findall(r"^- `([\w/]+\.(?:py|c|h))`", page, re.M)
    assert sorted(listed) == sorted(str(path.relative_to(PACKAGE)) for path in (*FILES, *C_FILES))


def test_every_row_type_stands_on_the_architecture_page():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    tree = ast.parse((PACKAGE / "records.py").read_text())
    rows = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0].isupper()]
    missing = [row for row in rows if f"| `{row}` |" not in page]
    assert rows
    assert not missing


def _docstring_lines(node: ast.FunctionDef) -> int:
    """A long docstring is no fault: the cap is on code."""
    first = node.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
def test_c_sources_are_short_and_say_what_they_do(path):
    text = path.read_text()
    assert text.startswith("/* ")
    assert text.count("\n") <= MAX_FILE_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_documented(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_FILE_LINES
    assert ast.get_docstring(tree), "a file opens with what it does"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and node in tree.body:
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def _defined_names(path: Path) -> set[str]:
    """Names that the top level of a file defines or imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)
            }
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_what_a_benchmark_takes_from_the_project_is_there(path):
    # Tests do not run benchmarks: a name that moved would be found by a reader, too late.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        sibling = path.parent / f"{node.module}.py"
        if node.module.startswith("isoflop"):
            found = importlib.util.find_spec(node.module)
            assert found is not None, node.module
            sibling = Path(found.origin or "")
            names = _defined_names(sibling) | {p.stem for p in sibling.parent.glob("*")}
        elif sibling.exists():
            names = _defined_names(sibling)
        else:
            continue
        missing = {alias.name for alias in node.names} - names
        assert not missing, f"{path.name}: {node.module} has no {', '.join(sorted(missing))}"
