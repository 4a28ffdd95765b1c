"""Completion for bash and zsh: sub-commands, options and their values, and the statement behind `pbal console -e`."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pbal.editors.words import Words

_VALUES: Final = {"FILE": "file", "FOLDER": "folder", "STATEMENT": "statement", "HOST:PORT | SOCKET": "file"}
"""What is completed, by what the command line calls it."""


# --- the command line --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One option, or one argument where `names` is empty."""

    names: tuple[str, ...]
    value: str
    """What is completed for it: file, folder, statement, choices, text; '' if it takes nothing."""
    choices: tuple[str, ...]
    help: str
    again: bool
    """Whether it may be said more than once."""


@dataclass(frozen=True)
class Command:
    """pbal, or a sub-command of it."""

    path: tuple[str, ...]
    options: tuple[Option, ...]
    subcommands: Mapping[str, str]
    """With what each does."""

    @property
    def words(self) -> str:
        """'plugin new'."""
        return " ".join(self.path)

    @property
    def function(self) -> str:
        """'_pbal_plugin_new'."""
        return "_".join(("_pbal", *self.path)).replace("-", "_")


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """A parser, and those of its sub-commands."""
    options: list[Option] = []
    subcommands: dict[str, str] = {}
    deeper: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            for name, below in action.choices.items():
                subcommands[name] = helps.get(name, "")
                deeper += commands(below, (*path, name))
        else:
            options.append(_option(action))
    yield Command(path, tuple(options), subcommands)
    yield from deeper


def _option(action: argparse.Action) -> Option:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    choices = tuple(map(str, action.choices or ()))
    value = "" if action.nargs == 0 else "choices" if choices else _VALUES.get(metavar, "text")
    again = isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+")
    return Option(tuple(action.option_strings), value, choices, (action.help or "").replace("%%", "%"), again)


# --- bash --------------------------------------------------------------------------------------------------------

_BASH: Final = r"""# bash completion for pbal
# @MADE@
# shellcheck shell=bash disable=SC2207

_pbal_statements='@STATEMENTS@'

# A statement, in quotes or not: what is typed of it is completed to the key words that it begins with.
_pbal_statement() {
  local typed=$cur quoted="" line
  case $typed in
    [\"\']*) quoted=yes typed=${typed:1} ;;
    *) typed=${typed//\\/} ;;
  esac
  COMPREPLY=()
  while IFS= read -r line; do
    [[ $line == "${typed,,}"* ]] || continue
    if [[ $quoted ]]; then COMPREPLY+=("$line"); else COMPREPLY+=("$(printf %q "$line")"); fi
  done <<< "$_pbal_statements"
}

_pbal() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path="" word
  COMPREPLY=()
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path/$word" in
@STEPS@
    esac
  done
  case "$path/$prev" in
@VALUES@
  esac
  if [[ $cur == -* ]]; then
    case $path in
@OPTIONS@
    esac
    return
  fi
  case $path in
@ARGUMENTS@
  esac
}

complete -F _pbal pbal
"""


def _bash_value(option: Option) -> str:
    if option.value == "statement":
        return "_pbal_statement"
    if option.value == "choices":
        return _bash_words(option.choices)
    kind = {"file": "-f", "folder": "-d"}.get(option.value)
    return f'compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen {kind} -- "$cur")' if kind else ":"


def _bash_words(words: Sequence[str]) -> str:
    return f'COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$cur"))'


def bash(known: Words, tree: Sequence[Command], made: str) -> str:
    """For bash 4.4 and newer."""
    steps: list[str] = []
    values: list[str] = []
    options: list[str] = []
    arguments: list[str] = []
    for command in tree:
        steps += [f'      "{command.words}/{name}") path="{" ".join((*command.path, name))}" ;;' for name in command.subcommands]
        for option in command.options:
            if option.names and option.value:
                said = "|".join(f'"{command.words}/{name}"' for name in option.names)
                values.append(f"    {said}) {_bash_value(option)}; return ;;")
        options.append(f'      "{command.words}") {_bash_words([name for option in command.options for name in option.names])} ;;')
        argument = next((option for option in command.options if not option.names), None)
        if command.subcommands:
            arguments.append(f'    "{command.words}") {_bash_words(list(command.subcommands))} ;;')
        elif argument is not None:
            arguments.append(f'    "{command.words}") {_bash_value(argument)} ;;')
    parts = {"STEPS": steps, "VALUES": values, "OPTIONS": options, "ARGUMENTS": arguments}
    text = _BASH.replace("@MADE@", made).replace("@STATEMENTS@", "\n".join(statement.lower() for statement in known.statements))
    for name, lines in parts.items():
        text = text.replace(f"@{name}@", "\n".join(lines))
    return text


# --- zsh ---------------------------------------------------------------------------------------------------------

_ZSH: Final = r"""#compdef pbal
# @MADE@

_pbal_statement() {
  local -a statements=(
@STATEMENTS@
  )
  _describe -t statements statement statements
}

@FUNCTIONS@
_pbal "$@"
"""

_ZSH_COMMANDS: Final = r"""@NAME@() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C \
@SPECS@ \
    '1: :->command' \
    '*:: :->argument'
  case $state in
    command)
      local -a commands=(
@COMMANDS@
      )
      _describe command commands ;;
    argument)
      case $words[1] in
@CASES@
      esac ;;
  esac
}
"""

_ZSH_COMMAND: Final = r"""@NAME@() {
  _arguments \
@SPECS@
}
"""


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_described(name: str, text: str) -> str:
    """One row of _describe."""
    return _zsh_quoted(name.replace(":", "\\:") + (f":{text}" if text else ""))


def _zsh_spec(option: Option) -> str:
    """One argument of _arguments."""
    actions = {"": "", "file": ":file:_files", "folder": ":folder:_files -/", "statement": ":statement:_pbal_statement", "text": ":value: "}
    action = actions.get(option.value, f":value:({' '.join(option.choices)})")
    if not option.names:
        return _zsh_quoted(("*" if option.again else "") + (action.replace(":", "::", 1) if not option.again else action))
    said = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    names = "{" + ",".join(option.names) + "}" if len(option.names) > 1 else option.names[0]
    others = "'*'" if option.again else f"'({' '.join(option.names)})'" if len(option.names) > 1 else ""
    return others + names + _zsh_quoted(f"[{said}]{action}")


def zsh(known: Words, tree: Sequence[Command], made: str) -> str:
    """For zsh 5."""
    functions: list[str] = []
    for command in tree:
        text = (_ZSH_COMMANDS if command.subcommands else _ZSH_COMMAND).replace("@NAME@", command.function)
        listed = [f"        {_zsh_described(name, said)}" for name, said in command.subcommands.items()]
        cases = [f"        {name}) {command.function}_{name.replace('-', '_')} ;;" for name in command.subcommands]
        text = text.replace("@SPECS@", " \\\n".join(f"    {_zsh_spec(option)}" for option in command.options))
        functions.append(text.replace("@COMMANDS@", "\n".join(listed)).replace("@CASES@", "\n".join(cases)))
    statements = [f"    {_zsh_described(statement.lower(), known.help.get(statement, ''))}" for statement in known.statements]
    text = _ZSH.replace("@MADE@", made).replace("@STATEMENTS@", "\n".join(statements))
    return text.replace("@FUNCTIONS@", "\n".join(functions))
