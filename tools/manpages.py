"""The manual pages: short prose in docs/man/*.rst, the rest from the tables that the programs themselves work with.

    python tools/manpages.py DIRECTORY        writes pydrbd.8, pydrbd-sbd.8, ... there

The first line of a page's source is its summary; a line @@NAME@@ stands for a table. Docutils makes roff of it.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "docs" / "man"
sys.path[:0] = [str(ROOT), str(ROOT / "fence")]

from docutils.core import publish_string  # noqa: E402
from pydrbd_fence import usage  # noqa: E402

import pydrbd  # noqa: E402
from pydrbd.admin import command_table, exit_codes, options  # noqa: E402
from pydrbd.config.options import SECTIONS, Kind, Option, Unit  # noqa: E402
from pydrbd.config.settings import SETTINGS_KEYS  # noqa: E402

UNITS = {
    Unit.SECONDS: "seconds",
    Unit.DECISECONDS: "tenths of a second",
    Unit.BYTES: "bytes",
    Unit.SECTORS: "sectors",
    Unit.KIB_PER_SECOND: "KiB/s",
}
LIMITS = {"timeout": " s", "interval": " s", "depth": ""}
"""What an agent's action may say of itself, and its unit."""

Items = Iterable[tuple[str, str]]


class Recorder:
    """Stands for ClusterLabs' library: what an agent tells it of itself."""

    def __init__(self, name: str, **words: str) -> None:
        self.name = name
        self.words = words
        self.parameters: list[tuple[str, str, dict[str, Any]]] = []
        self.actions: list[tuple[str, dict[str, Any]]] = []

    def add_parameter(self, name: str, shortdesc: str, longdesc: str, **more: Any) -> None:
        self.parameters.append((name, f"{shortdesc}. {longdesc}", more))

    def add_action(self, name: str, **more: Any) -> None:
        self.actions.append((name, more))

    def run(self) -> None:
        """Nothing: only the description is wanted."""


def load_agent(path: Path, **libraries: Any) -> Any:
    """An agent as a module, with these in place of the cluster's libraries."""
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    spec = importlib.util.spec_from_loader(path.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, libraries), mock.patch.object(sys, "dont_write_bytecode", True):
        loader.exec_module(module)
    return module


def ocf_agent(name: str) -> Recorder:
    """What an OCF agent says of itself."""
    made: list[Recorder] = []

    def new(*args: str, **words: str) -> Recorder:
        made.append(Recorder(*args, **words))
        return made[-1]

    load_agent(ROOT / "fence" / "ocf" / name, ocf=mock.MagicMock(Agent=new)).main()
    return made[0]


# --- reStructuredText ---


def plain(text: str) -> str:
    """Text that means itself."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def bold(text: str) -> str:
    return f"**{plain(text)}**"


def sentence(text: str) -> str:
    """The same, with a capital and a stop."""
    return plain(text[:1].upper() + text[1:]) + "."


def shown(value: object) -> str:
    """A default as it is written in the configuration."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def definitions(items: Items, indent: str = "") -> str:
    """A list of terms and what they mean, both in reStructuredText."""
    return "".join(f"{indent}{term}\n{textwrap.indent(body.strip(), indent + '   ')}\n" for term, body in items)


def with_argument(name: str, argument: str) -> str:
    return f"{bold(name)} *{plain(argument)}*" if argument else bold(name)


# --- the tables ---


def parser_items(verb: str) -> Items:
    tables = (*command_table.COMMON_OPTIONS, *command_table.DRBDADM_OPTIONS)
    common = {words for *_, words in tables}
    for action in options.parser_of(verb)._actions:
        if action.option_strings and "--help" not in action.option_strings and action.help not in common:
            metavar = "" if action.nargs == 0 else str(action.metavar)
            yield ", ".join(with_argument(name, metavar) for name in action.option_strings), sentence(action.help or "")


def pydrbd_commands() -> str:
    parts = []
    for group, title in command_table.GROUPS:
        parts.append(f"{title}\n{'-' * len(title)}\n\n")
        for name, command in command_table.COMMANDS.items():
            if command.group == group:
                names = plain(command_table.NAMES[command.names])
                body = f"{sentence(command.summary)}\n\n{definitions(parser_items(name))}"
                parts.append(definitions([(f"{bold(name)} {names}", body)]) + "\n")
    return "".join(parts)


def sbd_options() -> str:
    titles = {"any": "Always", "create": "For create", "watch": "For watch", "sbd": "Taken for sbd's sake"}
    parts = []
    for group, title in titles.items():
        found = [option for option in usage.OPTIONS if option.group == group]
        items = [(with_argument(option.name, option.argument), sentence(option.words)) for option in found]
        parts.append(f"{title}\n{'-' * len(title)}\n\n{definitions(items)}\n")
    return "".join(parts)


def option_body(option: Option) -> str:
    unit = UNITS.get(option.unit, "")
    words = {
        Kind.BOOL: "yes or no",
        Kind.FLAG: "a word without a value",
        Kind.NUMBER: f"{option.minimum} to {option.maximum} {unit}".rstrip(),
        Kind.ENUM: " | ".join(option.choices),
        Kind.STRING: f"a string of at most {option.maximum} bytes",
        Kind.WORDS: "one or more words",
    }[option.kind]
    if option.kind is not Kind.FLAG and option.default not in ("", ()):
        words += f"; default {shown(option.default)}"
    if not option.effective:
        words += "; without effect in pydrbd" + ("" if option.quiet else ", which is said at the start")
    return sentence(words)


def conf_sections() -> str:
    parts = []
    for section, known in SECTIONS.items():
        title = f"Section {section}"
        items = [(bold(name), option_body(option)) for name, option in known.items()]
        parts.append(f"{title}\n{'-' * len(title)}\n\n{definitions(items)}\n")
    return "".join(parts)


def tables() -> dict[str, str]:
    """Every @@NAME@@ with its text."""
    fencing = mock.MagicMock(all_opt={})
    fence = load_agent(ROOT / "fence" / "agents" / "fence_pydrbd", fencing=fencing)
    fence.define_options()
    found = {
        "pydrbd-commands": pydrbd_commands(),
        "pydrbd-common": definitions(
            (", ".join(with_argument(name, metavar) for name in names), sentence(words))
            for names, metavar, _, words in command_table.COMMON_OPTIONS
        ),
        "pydrbd-drbdadm": definitions(
            (", ".join(with_argument(name, metavar) for name in names), sentence(words))
            for names, metavar, _, words in command_table.DRBDADM_OPTIONS
        ),
        "pydrbd-exit-codes": definitions((str(code), plain(text)) for code, text in exit_codes.EXIT_CODES.items()),
        "witness-options": definitions(parser_items("witness")),
        "sbd-commands": definitions(
            (f"{bold(name)} {plain(command.arguments)}".rstrip(), sentence(command.words))
            for name, command in usage.COMMANDS.items()
        ),
        "sbd-options": sbd_options(),
        "sbd-keys": definitions((bold(key), plain(words)) for key, words in usage.KEYS.items()),
        "fence-longdesc": plain(fence.DOCS["longdesc"]),
        "fence-parameters": definitions(
            (f"{bold(name)} (**--{option['longopt']}**)", sentence(option["shortdesc"]))
            for name, option in fencing.all_opt.items()
        ),
        "conf-sections": conf_sections(),
        "toml-keys": definitions((bold(key), plain(words)) for key, words in SETTINGS_KEYS.items()),
    }
    for name in ("disk", "nbd"):
        found |= agent_tables(name, ocf_agent(name))
    return found


def agent_tables(name: str, agent: Recorder) -> dict[str, str]:
    parameters = []
    for parameter, words, more in agent.parameters:
        default = "required" if more.get("required") else f"default {more.get('default') or 'empty'}"
        parameters.append((bold(parameter), f"{plain(words)} ({plain(default)})"))
    actions = []
    for action, more in agent.actions:
        role = f" *{more['role']}*" if more.get("role") else ""
        limits = [f"{key} {more[key]}{unit}" for key, unit in LIMITS.items() if more.get(key)]
        actions.append((f"{bold(action)}{role}", ", ".join(limits)))
    names = sorted({action for action, _ in agent.actions} | {"meta-data"})
    return {
        f"{name}-title": agent.words["shortdesc"],
        f"{name}-synopsis": " | ".join(bold(action) for action in names),
        f"{name}-longdesc": plain(agent.words["longdesc"]),
        f"{name}-parameters": definitions(parameters),
        f"{name}-actions": definitions(actions),
    }


def page(source: Path, known: dict[str, str]) -> str:
    """The roff of one page."""
    name, section = source.stem.rsplit(".", 1)
    text = re.sub(r"@@([a-z-]+)@@", lambda match: known[match[1]], source.read_text())
    summary, body = text.split("\n", 1)
    bar, under = "=" * len(name), "-" * len(summary)
    head = f"{bar}\n{name}\n{bar}\n\n{under}\n{summary}\n{under}\n\n"
    head += f":Manual section: {section}\n:Manual group: pydrbd\n:Version: {pydrbd.__version__}\n\n"
    settings = {"halt_level": 2, "report_level": 2, "input_encoding": "unicode", "output_encoding": "unicode"}
    return str(publish_string(head + body, str(source), writer="manpage", settings_overrides=settings))


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the manual pages.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    known = tables()
    for source in sorted(SOURCES.iterdir()):
        if source.suffix == ".rst":
            (directory / source.stem).write_text(page(source, known))
        else:
            shutil.copyfile(source, directory / source.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
