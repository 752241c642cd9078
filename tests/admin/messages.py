"""Every message that an operator can be refused with, read from the source; and whether a test knows it.

A message is a pattern: its own words, with GAP for what is put in. A test knows it if one of its texts has words of it
that no other message has, or is the whole message; and names its exit code, or the class of error that has this code.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pydrbd.admin.exit_codes as exit_codes
import pydrbd.admin.output as output
import pydrbd.errors as errors
from pydrbd.errors import PydrbdError

ROOT = Path(__file__).resolve().parents[2]
GAP = "\0"
WORDS_MIN = 10
"""So many characters of its own make a message known."""

LETTERS_MIN = 6
"""What has fewer letters of its own only passes on what somebody else has said."""

REFUSAL = "refusal"
BUGS = {"InternalError"}
PEERS = {"PeerProtocolError", "ClientProtocolError"}
"""What a peer, or a client, has done wrong is no operator's mistake: tests/wire, tests/nbd and tests/fuzz see to it."""

CLASSES: dict[str, int] = {
    name: found.exit_code
    for module in (errors, exit_codes, output)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, PydrbdError) and name not in BUGS | PEERS | {"PydrbdError"}
}
SECOND_ARGUMENT = {"StateRefused"}


@dataclass(frozen=True)
class Message:
    """`kind`: the class of the error; REFUSAL: the process's answer, which ends a command with 17 or 10."""

    kind: str
    pattern: str
    place: str = field(compare=False)

    @property
    def pieces(self) -> list[str]:
        return self.pattern.split(GAP)

    @property
    def regex(self) -> re.Pattern[str]:
        return re.compile(".*".join(map(re.escape, self.pieces)), re.S)


# --- what the source says ---


class _Module:
    """One module, and what its names may stand for."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.tree = ast.parse(source)
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    def patterns(self, node: ast.expr, scopes: tuple[ast.AST, ...], depth: int = 0) -> list[str]:
        """All that an expression may be."""
        again = (scopes, depth + 1)
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=values):
                parts = [self.patterns(value, *again) if isinstance(value, ast.Constant) else [GAP] for value in values]
                return ["".join(each) for each in product(*parts)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return ["".join(each) for each in product(self.patterns(left, *again), self.patterns(right, *again))]
            case ast.IfExp(body=body, orelse=orelse):
                return self.patterns(body, *again) + self.patterns(orelse, *again)
            case ast.BoolOp(values=values):
                return [found for value in values for found in self.patterns(value, *again)]
            case ast.Name(id=name) if depth < 4:
                values = [value for scope in scopes for value in _assigned(scope, name)]
                return [found for value in values for found in self.patterns(value, *again)] or [GAP]
            case ast.Call(func=ast.Name(id=name)) if depth < 4 and name in self.functions:
                function = self.functions[name]
                returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value is not None]
                return [found for value in returned for found in self.patterns(value, (function,), depth + 1)] or [GAP]
        return [GAP]

    def messages(self) -> Iterator[Message]:
        for node, scopes in _with_functions(self.tree, (self.tree,)):
            for kind, expression in _said(node):
                place = f"{self.path}:{node.lineno}"
                for pattern in self.patterns(expression, scopes):
                    yield Message(kind, re.sub(f"{GAP}+", GAP, pattern), place)


def _with_functions(node: ast.AST, scopes: tuple[ast.AST, ...]) -> Iterator[tuple[ast.expr, tuple[ast.AST, ...]]]:
    """Every expression, with the module and the functions that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child, scopes
        inside = (*scopes, child) if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else scopes
        yield from _with_functions(child, inside)


def _assigned(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    """What a name may stand for; of a module only what stands at its top."""
    nodes = ast.iter_child_nodes(scope) if isinstance(scope, ast.Module) else ast.walk(scope)
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            yield from (node.value for target in targets if isinstance(target, ast.Name) and target.id == name)


def _said(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What is said by one expression: an error, a mistake in a configuration, the answer to a command."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[_, *_] as arguments) if name in CLASSES:
            place = 1 if name in SECOND_ARGUMENT else 0
            yield name, arguments[place]
        case ast.Call(func=ast.Attribute(value=owner, attr="error"), args=[message]):
            if not (isinstance(owner, ast.Name) and owner.id.startswith(("_log", "logging"))):
                yield "ConfigError", message
        case ast.Call(func=ast.Attribute(attr="answer" | "_answer"), args=[_, code, text]):
            if ast.unparse(code) != "StateCode.SS_SUCCESS":
                yield REFUSAL, text
        case ast.Dict(keys=keys, values=values):
            named = {key.value: value for key, value in zip(keys, values, strict=True) if isinstance(key, ast.Constant)}
            if {"code", "text"} <= named.keys() and ast.unparse(named["code"]) != "1":
                yield REFUSAL, named["text"]
            if all(isinstance(key, ast.Attribute | ast.Name) and "SS_" in ast.unparse(key) for key in keys):
                yield from ((REFUSAL, value) for value in values)
            if all(isinstance(key, ast.Name) and key.id.startswith("ERR_") for key in keys):
                yield from ((REFUSAL, value) for value in values)


def read_messages(files: Iterable[tuple[Path, str]]) -> list[Message]:
    """Each that has words of its own, once."""
    found = dict.fromkeys(message for path, text in files for message in _Module(path, text).messages())
    return [message for message in found if sum(map(str.isalpha, message.pattern)) >= LETTERS_MIN]


def our_messages() -> list[Message]:
    """Of the whole program."""
    paths = sorted((ROOT / "pydrbd").rglob("*.py"))
    return read_messages((path.relative_to(ROOT), path.read_text()) for path in paths)


# --- what the tests say ---


@dataclass(frozen=True)
class Said:
    """A text of a test, and what else the function around it names; of a table: the whole module."""

    text: str
    names: frozenset[str]
    numbers: frozenset[int]

    def knows(self, message: Message) -> bool:
        """Whether the exit code is named."""
        return message.kind == REFUSAL or message.kind in self.names or CLASSES[message.kind] in self.numbers


def read_tests(source: str) -> Iterator[Said]:
    """All texts of one module but its docstrings."""
    tree = ast.parse(source)
    everything = _named(tree)
    for statement in tree.body:
        is_function = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        names, numbers = _named(statement) if is_function else everything
        skipped = {id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(statement):
            if id(node) not in skipped and (text := _text(node)):
                yield Said(text.replace("\\", ""), names, numbers)


def _text(node: ast.AST) -> str:
    """A string as it stands there, with GAP for what an f-string puts in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) or GAP for value in values)
    return ""


def _named(scope: ast.AST) -> tuple[frozenset[str], frozenset[int]]:
    """The names and the numbers in a part of a module."""
    nodes = list(ast.walk(scope))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    numbers = (node.value for node in nodes if isinstance(node, ast.Constant))
    return frozenset(names), frozenset(number for number in numbers if type(number) is int)


def our_tests() -> list[Said]:
    """Of all tests; and the mistakes in configurations, each of which ends a command with 78 (test_command_line)."""
    paths = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_messages_known.py")
    found = [said for path in paths for said in read_tests(path.read_text())]
    mistakes = tomllib.loads((ROOT / "tests/data/config/mistakes.toml").read_text())
    says = [mistake["says"] for kind in mistakes.values() for mistake in kind.values()]
    return found + [Said(text, frozenset({"ConfigError"}), frozenset()) for text in says]


# --- both ---


def unknown(messages: Iterable[Message], tests: Iterable[Said]) -> list[Message]:
    """The messages that no test knows."""
    messages, tests = list(messages), list(tests)
    owners: dict[str, set[Message]] = defaultdict(set)
    for message in messages:
        for piece in message.pieces:
            for words in _runs(piece):
                owners[words].add(message)
    own = {words for words, who in owners.items() if len({one.pattern for one in who}) == 1}
    known: set[Message] = set()
    for said in tests:
        for words in own & set(_runs(said.text)):
            known |= {message for message in owners[words] if said.knows(message)}
    left = [message for message in messages if message not in known]
    return [one for one in left if not any(one.regex.fullmatch(said.text) and said.knows(one) for said in tests)]


def _runs(text: str) -> Iterator[str]:
    return (text[at : at + WORDS_MIN] for at in range(len(text) - WORDS_MIN + 1))
