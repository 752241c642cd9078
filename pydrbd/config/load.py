"""From files to the configuration: reading, `include`, and everything that can go wrong on the way.

`include` takes a path relative to the file it stands in. A pattern (`*`, `?`, `[...]`) may match nothing, a path
without one must exist. As in drbdadm a file is read once, however often it is included.
"""

from __future__ import annotations

from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from pydrbd.config.lexer import Place
from pydrbd.config.model import Config
from pydrbd.config.parser import read_statement
from pydrbd.config.raw import RawConfig
from pydrbd.config.resolve import resolve_config
from pydrbd.config.syntax import Statement, read_statements
from pydrbd.config.values import expect_words
from pydrbd.errors import ConfigError, ConfigForbidden
from pydrbd.limits import CONFIG_FILE_BYTES_MAX, CONFIG_FILES_MAX

__all__ = ["load_config", "parse_config"]


def load_config(path: str | Path, *more: str | Path) -> Config:
    """The configuration in a file and in those it includes; ConfigError with file, line, column and the mistake.

    `more` are read as if the file ended with an `include` of them.
    """
    return _load(_read_text(Path(path), None), Path(path), more)


def parse_config(text: str, file: str = "<text>") -> Config:
    """The same from a text; `file` names it in messages, and what it includes is looked up beside it."""
    return _load(text, Path(file), ())


def _load(text: str, file: Path, more: Iterable[str | Path]) -> Config:
    raw = RawConfig(str(file))
    _read_file(text, file, raw)
    for path in map(Path, more):
        if _identity(path) not in raw.files:
            _read_file(_read_text(path, None), path, raw)
    return resolve_config(raw)


def _read_file(text: str, file: Path, raw: RawConfig) -> None:
    raw.files.append(_identity(file))
    for statement in read_statements(text, str(file)):
        if statement.name == "include":
            for included in _included_files(statement, file):
                if _identity(included) in raw.files:
                    continue
                if len(raw.files) == CONFIG_FILES_MAX:
                    raise statement.place.error(f"more than {CONFIG_FILES_MAX} files are included")
                _read_file(_read_text(included, statement.arguments[0].place), included, raw)
        else:
            read_statement(statement, raw)


def _included_files(statement: Statement, file: Path) -> list[Path]:
    """The files that an `include` means, sorted by name."""
    tokens = statement.arguments
    if statement.block is not None or not tokens or len(tokens) > 1:
        expect_words(statement, 1, "a file name, in quotes if it is a pattern")
    path = file.parent / tokens[0].text
    if not has_magic(tokens[0].text):
        return [path]
    return [Path(found) for found in sorted(glob(str(path)))]  # noqa: PTH207 - Path.glob matches hidden files too


def _read_text(file: Path, place: Place | None) -> str:
    """A file's text; bytes that are not UTF-8 are kept as surrogates, for the lexer to refuse outside of comments.

    `place` is the `include`'s; None for the main file, which may be a pipe.
    """
    try:
        if file.is_dir() or (place is not None and file.exists() and not file.is_file()):
            raise _file_error(file, "is not a regular file", place)
        with file.open("rb") as stream:
            content = stream.read(CONFIG_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, PermissionError):
            raise ConfigForbidden(str(_file_error(file, f"can't be read: {reason}", place))) from error
        raise _file_error(file, f"can't be read: {reason}", place) from error
    if len(content) > CONFIG_FILE_BYTES_MAX:
        raise _file_error(file, f"is longer than {CONFIG_FILE_BYTES_MAX} bytes: is it a configuration file?", place)
    return content.decode("utf-8", "surrogateescape")


def _file_error(file: Path, what: str, place: Place | None) -> ConfigError:
    message = f"the configuration file '{file}' {what}"
    return ConfigError(message) if place is None else place.error(f"include: {message}")


def _identity(file: Path) -> str:
    """What makes two names the same file."""
    try:
        return str(file.resolve())
    except (OSError, RuntimeError):
        return str(file)
