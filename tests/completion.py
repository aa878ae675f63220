"""Completions for bash, zsh and fish: of commands, of the options that go with each, of volumes."""

import copy
import re
from argparse import Action, ArgumentParser
from shlex import quote

import shtab

from mountd.arguments import COMMANDS
from mountd.usage import make_parser

# Of what is written rather than of what is in force: it answers at once, also where the manifest is
# wrong or a source hangs. Its arguments are the words of the command line.
_NAMES = r"""
while [ $# -gt 0 ]; do
  case $1 in
  -f | --manifest) [ "$2" != = ] || shift; file=$2 ;;
  --manifest=*) file=${1#*=} ;;
  esac
  shift
done
if [ "$file" ]; then
  set -- "$file" "$file".d/*.toml
else
  set -- /etc/mountd.toml /run/mountd.toml /usr/lib/mountd.toml
  set -- "$@" /etc/mountd.toml.d/*.toml /run/mountd.toml.d/*.toml /usr/lib/mountd.toml.d/*.toml
  set -- "$@" /run/credentials/mountd.service/mountd*.toml /run/credentials/@system/mountd*.toml
fi
blank="[[:space:]]*"
sed -nE "s/^$blank[[]?${blank}volumes$blank[.]$blank[\"]?([A-Za-z0-9][A-Za-z0-9_-]*).*/\1/p" \
  -- "$@" </dev/null 2>/dev/null | sort -u
"""
_VOLUMES = {
    "bash": "_mountd_volumes",
    "zsh": "_mountd_volumes",
    "fish": "(_mountd_volumes)",
    "preamble": {
        "bash": f"""
_mountd_volumes() {{
  compgen -W "$(file= sh -c {quote(_NAMES)} "${{COMP_WORDS[@]}}")" -- "$1"
}}
""",
        "zsh": f"""
_mountd_volumes() {{
  local -a names expl
  names=(${{(f)"$(file= sh -c {quote(_NAMES)} ${{(Q)${{(z)BUFFER}}}})"}})
  _wanted volumes expl volume compadd -a names
}}
""",
        "fish": f"""
function _mountd_volumes
  file= sh -c {quote(_NAMES)} (commandline -opc)
end
""",
    },
}
_ARGUMENTS: dict[str, list[tuple[str, str | None, object]]] = {
    "unmount": [("VOLUME", "*", _VOLUMES)],
    "explain": [("VOLUME", None, _VOLUMES), ("PATH", "?", shtab.FILE)],
}


def completions() -> dict[str, str]:
    """The text of each file by its path below `share/`."""
    bash, zsh, fish = (shtab.complete(_whole(), shell) for shell in ("bash", "zsh", "fish"))
    zsh = zsh.replace('"(*)::VOLUME:', '"*:VOLUME:')  # any number of them, not just one
    for option in make_parser()._actions:  # noqa: SLF001
        if option.option_strings and option.nargs is None:
            long = option.option_strings[-1]
            zsh = re.sub(rf"{long}(?=[}}[])", f"{long}=", zsh)  # its value may be in its word
    return {
        "bash-completion/completions/mountd": bash + "\n",
        "fish/vendor_completions.d/mountd.fish": fish,
        "zsh/site-functions/_mountd": zsh,
    }


def _whole() -> ArgumentParser:
    """The command line as shtab understands it: a parser for each command."""
    options = [each for each in make_parser()._actions if each.option_strings]  # noqa: SLF001
    whole = ArgumentParser("mountd", add_help=False)
    for option in options:
        if _command_of(option) is None:
            _add(whole, option)
    commands = whole.add_subparsers()
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, add_help=False)
        for option in options:
            if _command_of(option) in (None, name):
                _add(command, option)
        for metavar, nargs, complete in _ARGUMENTS.get(name, ()):
            added = command.add_argument(metavar.lower(), metavar=metavar, nargs=nargs)
            added.complete = complete  # type: ignore[attr-defined] # as shtab has it
    return whole


def _command_of(option: Action) -> str | None:
    """The one command that an option goes with: its help begins with that."""
    command, colon, _ = str(option.help).partition(": ")
    return command if colon and command in COMMANDS else None


def _add(parser: ArgumentParser, option: Action) -> None:
    option = copy.copy(option)
    option.help = str(option.help).removeprefix(f"{_command_of(option)}: ")
    if option.metavar in ("FILE", "DIR"):
        option.complete = shtab.FILE if option.metavar == "FILE" else shtab.DIRECTORY  # type: ignore[attr-defined]
    parser._add_action(option)  # noqa: SLF001
