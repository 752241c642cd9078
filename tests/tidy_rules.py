"""The repository's own rules: each is a function from one file's text to the lines that break it.

`python -m tests.tidy_rules` prints what is broken, and the modules beyond the soft aim; tests/test_tidy.py holds them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_DIRECTORIES = ("pydrbd", "fence", "native", "benchmarks", "tests", "tools")

LINE_COLUMNS_MAX = 120
MODULE_LINES_MAX = 400
MODULE_LINES_AIM = 300
FUNCTION_LINES_MAX = 60

LONG_FUNCTIONS: dict[str, int] = {}
"""Functions that are longer, `path::Class.name` to lines. It only shrinks: no entry is higher than it needs to be."""

BASE = {"units", "errors", "limits"}
NATIVE = {"native", "reference"}
MAY_IMPORT: dict[str, set[str]] = {
    "units": set(),
    "errors": {"units"},
    "limits": {"units", "errors"},
    "native": BASE | {"reference", "_native"},
    "reference": BASE,
    "config": BASE,
    "wire": BASE | NATIVE,
    "metadata": BASE | NATIVE,
    "core": BASE | NATIVE | {"wire", "metadata"},
    "runtime": BASE | NATIVE | {"wire", "metadata", "core", "config"},
    "admin": BASE | NATIVE | {"wire", "metadata", "core", "config", "runtime"},
    "nbdkit_plugin": {"errors", "wire", "runtime"},
    "api": BASE | {"runtime", "admin"},
    "__main__": {"admin"},
    "__init__": {"api", "errors"},
}
"""What each part of pydrbd may import of pydrbd, besides itself and the version."""

PURE = BASE | {"reference", "wire", "metadata", "core"}
BANNED_IN_PURE = (
    {"asyncio", "concurrent", "ctypes", "importlib", "io", "logging", "mmap", "multiprocessing", "os", "pathlib"}
    | {"random", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile"}
    | {"threading", "time", "trio"}
)
TRIO_PARTS = {"runtime", "admin", "api"}

TOP_FILES = {
    *(".dockerignore", ".gitignore", "Containerfile", "LICENSE", "MANIFEST.in", "Makefile"),
    *("pyproject.toml", "setup.py"),
    *("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "RELIABILITY.json", "SECURITY.md"),
}

UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")) + r")\b")
ALLOCATORS = re.compile(r"\b(malloc|calloc|realloc|reallocarray|aligned_alloc|posix_memalign|strdup|alloca|free)\s*\(")
PYTHON_API = re.compile(r"\bPy_?[A-Z]\w*|Python\.h")

Breaks = Iterator[tuple[int, str]]
Rule = Callable[[str, str], Breaks]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def part_of(path: str) -> str:
    """`pydrbd/core/node.py` belongs to `core`, `pydrbd/units.py` to `units`; other trees to ''."""
    pieces = Path(path).with_suffix("").parts
    return pieces[1] if pieces[0] == "pydrbd" else ""


def imported(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Every absolute module name that a file imports, `from package import name` as `package.name` too."""
    package = Path(path).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def import_directions(path: str, text: str) -> Breaks:
    """Imports inside pydrbd go one way; the fence imports nothing of pydrbd, because it lives when pydrbd dies."""
    part = part_of(path)
    for line, name in imported(path, text):
        pieces = name.split(".")
        if pieces[0] != "pydrbd":
            continue
        if path.startswith("fence/"):
            yield line, f"the fence imports {name}"
        elif part in MAY_IMPORT:
            other = pieces[1] if len(pieces) > 1 else "__init__"
            if other not in MAY_IMPORT[part] | {part, "__version__"}:
                yield line, f"{part} imports {name}"
        elif path.startswith("pydrbd/"):
            yield line, f"{part} is a part that MAY_IMPORT does not know: give it a place"


def pure_parts(path: str, text: str) -> Breaks:
    """Decisions and formats touch no clock, file, socket, chance or log; Trio stays in the runtime and above."""
    part = part_of(path)
    for line, name in imported(path, text):
        root = name.split(".")[0]
        if part in PURE and root in BANNED_IN_PURE:
            yield line, f"{part} imports {root}"
        elif part in MAY_IMPORT and part not in TRIO_PARTS and root == "trio":
            yield line, f"{part} imports trio"
    if part in PURE:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                yield node.lineno, f"{part} opens a file"


def module_size(path: str, text: str) -> Breaks:
    """A module is short enough to be read in one sitting (tests are lists, and may be longer)."""
    count = len(text.splitlines())
    if not path.startswith("tests/") and count > MODULE_LINES_MAX:
        yield count, f"{count} lines, at most {MODULE_LINES_MAX}"


def function_lengths(path: str, text: str) -> Iterator[tuple[int, str, int]]:
    """First line, `path::Class.name` and length in lines of every function outside of the tests."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[int, str, int]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, Function | ast.ClassDef)
            name = f"{prefix}{child.name}." if named else prefix
            if isinstance(child, Function):
                yield child.lineno, f"{path}::{name[:-1]}", (child.end_lineno or child.lineno) - child.lineno + 1
            yield from visit(child, name)

    if not path.startswith("tests/"):
        yield from visit(ast.parse(text), "")


def function_size(path: str, text: str) -> Breaks:
    """A function fits on a screen, or is a named exception."""
    for line, name, count in function_lengths(path, text):
        if count > LONG_FUNCTIONS.get(name, FUNCTION_LINES_MAX):
            yield line, f"{name} has {count} lines, at most {FUNCTION_LINES_MAX}"


def useless_exceptions(exceptions: dict[str, int], lengths: dict[str, int]) -> list[str]:
    """Entries of the list of long functions that could be lowered or dropped."""
    return [
        f"{name}: allowed {allowed} lines, has {lengths.get(name, 0)}"
        for name, allowed in sorted(exceptions.items())
        if lengths.get(name, 0) < allowed or allowed <= FUNCTION_LINES_MAX
    ]


def public_names(path: str, text: str) -> Breaks:
    """A public module lists its public names, and every one of them exists."""
    if not path.startswith(("pydrbd/", "fence/")) or Path(path).stem == "__main__":
        return
    body = ast.parse(text).body
    if Path(path).name != "__init__.py" and Path(path).name.startswith("_"):
        return
    if all(isinstance(node, ast.Expr) for node in body):
        return  # a docstring has no names
    there: set[str] = set()
    listed = None
    for node in top_level(body):
        names = bound(node)
        there |= names
        if "__all__" in names and isinstance(node, ast.Assign | ast.AnnAssign):
            listed = node.value
    if listed is None:
        yield 1, "no __all__"
        return
    for name in ast.literal_eval(listed):
        if name not in there:
            yield listed.lineno, f"__all__ names {name}, which is not there"


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those inside of its `if`, `try` and `with` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                yield from top_level(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from top_level(handler.body)


def bound(node: ast.stmt) -> set[str]:
    """The names that one statement binds."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    targets = getattr(node, "targets", [])
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def unfinished(path: str, text: str) -> Breaks:
    """What is there is finished."""
    for line, content in enumerate(text.splitlines(), 1):
        if found := UNFINISHED.search(content):
            yield line, f"{found[0]}: finish it, or write an issue"


def swallowed_errors(path: str, text: str) -> Breaks:
    """No `except:`, and no `except Exception: pass`: an error has somebody to blame and somebody to tell."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield node.lineno, "bare except"
        elif ast.unparse(node.type) in ("Exception", "BaseException") and all(
            isinstance(statement, ast.Pass | ast.Continue) for statement in node.body
        ):
            yield node.lineno, f"every {ast.unparse(node.type)} is swallowed"


def calls(path: str, text: str) -> Breaks:
    """`print` is for the command line and the benchmarks; a test that sleeps is slow, and flaky all the same."""
    printing = path.startswith(("pydrbd/admin/", "benchmarks/", "tests/", "native/build.py"))
    names = {alias.asname or alias.name for node in from_imports(text, "time") for alias in node.names}
    for node in ast.walk(ast.parse(text)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called == "print" and not printing:
            yield node.lineno, "print"
        if path.startswith("tests/") and (called == "time.sleep" or (called == "sleep" and "sleep" in names)):
            yield node.lineno, "time.sleep in a test"


def from_imports(text: str, module: str) -> Iterator[ast.ImportFrom]:
    return (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) and n.module == module)


def line_length(path: str, text: str) -> Breaks:
    for line, content in enumerate(text.splitlines(), 1):
        if len(content) > LINE_COLUMNS_MAX:
            yield line, f"{len(content)} columns, at most {LINE_COLUMNS_MAX}"


def c_owns_nothing(path: str, text: str) -> Breaks:
    """C works on memory that Python gave it, and knows nothing of Python, but for what is about Python's threads."""
    for line, content in enumerate(text.splitlines(), 1):
        if found := ALLOCATORS.search(content):
            yield line, f"{found[1]}: the caller owns all memory"
        if path != "native/threads.c" and (found := PYTHON_API.search(content)):
            yield line, f"{found[0]}: no Python in native/"


def make_commands(path: str, text: str) -> Breaks:
    """Every `make TARGET` that a document shows is a target of the Makefile."""
    there = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line, content in enumerate(text.splitlines(), 1):
        for target in re.findall(r"(?:^\s*(?:[$#] )?|`|&& )make ([a-z][a-z-]*)", content):
            if target not in there:
                yield line, f"make {target}: the Makefile has no such target"


PYTHON_RULES: tuple[Rule, ...] = (
    import_directions,
    pure_parts,
    module_size,
    function_size,
    public_names,
    unfinished,
    swallowed_errors,
    calls,
    line_length,
)
C_RULES: tuple[Rule, ...] = (c_owns_nothing, unfinished, line_length)
DOCUMENT_RULES: tuple[Rule, ...] = (make_commands,)


def python_files() -> list[Path]:
    return sorted(path for directory in PYTHON_DIRECTORIES for path in (ROOT / directory).rglob("*.py"))


def files_of(rule: Rule) -> list[Path]:
    """The files of the repository that a rule is about."""
    files = python_files() if rule in PYTHON_RULES else []
    if rule in C_RULES:
        files += sorted((ROOT / "native").glob("*.[ch]"))
    if rule in DOCUMENT_RULES:
        files += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md") if (ROOT / name).exists()]
    return files


def broken(rule: Rule) -> list[str]:
    """What breaks a rule in the repository, as `path:line: what`."""
    found = []
    for file in files_of(rule):
        path = file.relative_to(ROOT).as_posix()
        found += [f"{path}:{line}: {what}" for line, what in rule(path, file.read_text())]
    return found


def all_function_lengths() -> dict[str, int]:
    found = {}
    for file in python_files():
        path = file.relative_to(ROOT).as_posix()
        found |= {name: count for _, name, count in function_lengths(path, file.read_text())}
    return found


def long_modules() -> list[str]:
    """Modules beyond the soft aim, the longest first."""
    found = []
    for file in python_files():
        path = file.relative_to(ROOT).as_posix()
        count = len(file.read_text().splitlines())
        if count > MODULE_LINES_AIM and not path.startswith("tests/"):
            found.append((count, path))
    return [f"{path}: {count} lines (aim: {MODULE_LINES_AIM})" for count, path in sorted(found, reverse=True)]


def strays() -> list[str]:
    """Files at the top of the repository that have no place there: what a command left behind, committed by mistake."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False)
    return [f"{name}: no place for it at the top" for name in listed.stdout.splitlines() if stray(name)]


def stray(name: str) -> bool:
    return "/" not in name and name not in TOP_FILES


def main() -> int:
    rules = dict.fromkeys([*PYTHON_RULES, *C_RULES, *DOCUMENT_RULES])
    found = [f"{place} ({rule.__name__})" for rule in rules for place in broken(rule)]
    found += useless_exceptions(LONG_FUNCTIONS, all_function_lengths())
    found += strays()
    for line in [*long_modules(), *found]:
        print(line)
    print(f"Our own rules: {len(found)} broken" if found else "Our own rules: all kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
