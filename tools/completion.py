"""The completion for bash, from the tables that the command line itself works with.

    python tools/completion.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydrbd.admin.command_table import COMMANDS, COMMON_OPTIONS, DRBDADM_OPTIONS  # noqa: E402
from pydrbd.admin.options import parser_of  # noqa: E402

SCRIPT = """\
# Completion for pydrbd's command line. Made by tools/completion.py.
_pydrbd() {
  local current=$2 previous=$3 word verb='' words='' skip='' asks=(pydrbd)
  COMPREPLY=()
  case $previous in
    -c | --config-file | --log-file) compopt -o default 2>/dev/null; return ;;
    --run-dir) compopt -o dirnames 2>/dev/null; return ;;
  esac
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [ -n "$skip" ]; then
      asks+=("$skip" "$word")
      skip=''
    elif [[ " @with_value@ " == *" $word "* ]]; then
      skip=$word
    elif [ -z "$verb" ] && [[ $word != -* ]]; then
      verb=$word
    fi
  done
  case $verb in
    '') words="@verbs@ @common@ --help --version" ;;
@options@
  esac
  if [[ $current != -* && -n $verb && $verb != demo ]]; then
    words="all $("${asks[@]}" sh-resources 2>/dev/null)"
  elif [[ -n $verb ]]; then
    words="$words @common@ --help"
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _pydrbd pydrbd
"""


def options_of(verb: str) -> list[str]:
    """The long options of one verb that are not everybody's, and short ones that have no long one."""
    common = {name for names, *_ in COMMON_OPTIONS for name in names} | {"-h", "--help"}
    of_drbdadm = {words for *_, words in DRBDADM_OPTIONS}
    own = [action for action in parser_of(verb)._actions if action.help not in of_drbdadm]
    return [name for action in own for name in action.option_strings if name not in common]


def script() -> str:
    """The whole file."""
    own = {verb: options_of(verb) for verb in COMMANDS if verb != "demo"}
    cases = "\n".join(f"    {verb}) words='{' '.join(options)}' ;;" for verb, options in own.items() if options)
    everybodys = (*COMMON_OPTIONS, *DRBDADM_OPTIONS)
    values = {
        "with_value": " ".join(name for names, metavar, *_ in everybodys if metavar for name in names),
        "verbs": " ".join(COMMANDS),
        "common": " ".join(name for names, *_ in COMMON_OPTIONS for name in names),
        "options": cases,
    }
    text = SCRIPT
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(script())
