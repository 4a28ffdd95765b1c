# bash completion for pbal
# Made by python -m pbal.editors from the declarations of pbal
# shellcheck shell=bash disable=SC2207

_pbal_statements='backends
complete
create pool
create service
default
disable
drop pool
drop rule
drop service
dumpconfig
enable
exit
fd
header
help
load
login
mark
node
nodes
plugins
poll answer
poll kick
poll publish
poll wake
pool
pool add
pool remove
proc
queues
quit
reload
reload certificates
server
set
show certificates
show clients like
show counters like
show errors
show health
show latency
show limits
show nodes
show parked
show parked summary
show plugins
show pool
show presence
show queue
show rules
show service
show store
show tunables
show version
shutdown
shutdown graceful
socks all
socks summary
states
unload
unset
unset default
unset server
uptime
use
verbose
version
vhost
vpath'

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
      "/check") path="check" ;;
      "/plugin") path="plugin" ;;
      "/password") path="password" ;;
      "/console") path="console" ;;
      "plugin/new") path="plugin new" ;;
    esac
  done
  case "$path/$prev" in
    "/-c"|"/--config") compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    "/--log-level") COMPREPLY=($(compgen -W "debug info warning error" -- "$cur")); return ;;
    "plugin new/--folder") compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    "console/-c"|"console/--config") compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    "console/-e"|"console/--execute") _pbal_statement; return ;;
    "console/--user") :; return ;;
    "console/--password-file") compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
  esac
  if [[ $cur == -* ]]; then
    case $path in
      "") COMPREPLY=($(compgen -W "-h --help -c --config --log-level --version" -- "$cur")) ;;
      "check") COMPREPLY=($(compgen -W "-h --help" -- "$cur")) ;;
      "plugin") COMPREPLY=($(compgen -W "-h --help" -- "$cur")) ;;
      "plugin new") COMPREPLY=($(compgen -W "-h --help --folder" -- "$cur")) ;;
      "password") COMPREPLY=($(compgen -W "-h --help" -- "$cur")) ;;
      "console") COMPREPLY=($(compgen -W "-h --help -c --config -e --execute --json -k --keep-going --user --password-file" -- "$cur")) ;;
    esac
    return
  fi
  case $path in
    "") COMPREPLY=($(compgen -W "check plugin password console" -- "$cur")) ;;
    "check") compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    "plugin") COMPREPLY=($(compgen -W "new" -- "$cur")) ;;
    "plugin new") : ;;
    "password") : ;;
    "console") compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
  esac
}

complete -F _pbal pbal
