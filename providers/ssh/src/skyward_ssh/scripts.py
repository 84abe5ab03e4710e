"""What is run on a host, in POSIX shell: it may have no python, and ending a machine must not need one.

Each script prints lines ``skyward:<key> <value>``, whatever else the account's start-up files print. What
changes a host runs under a lock beside the machine's folder, so that two clients never judge or remove one
lease at once; where there is no ``flock``, making the folder is still atomic.

    ~/.skyward/machine             the lease: who makes it has the host
      machine.json                 who that is; one line of JSON, whose form the scripts know
      agent.pid, pids              "<pid> <start time>" of the agent and of each worker, written by the agent
    ~/.skyward/machine.lock
    ~/.skyward/machine.old.<pid>   being removed

A pid counts only together with its start time, field 22 of ``/proc/<pid>/stat``; a zombie counts as gone.
"""

from __future__ import annotations

import json
import shlex

from skyward.hooks.hardware import NVIDIA_SMI

STALE_SECONDS = 15 * 60
"""A lease in which nothing runs is another's after this long: a bootstrap has no agent yet."""

YOUNG_SECONDS = 60
"""A folder without a lease is being made or removed, which takes a moment, or was left behind."""

GRACE_STEPS = 40
"""Steps of 0.05 s that an agent may take to end its workers before it is killed."""

_FUNCTIONS = r"""
LC_ALL=C
export LC_ALL
umask 077
say() { printf '\nskyward:%s %s\n' "$1" "$2"; }
quit() { say "$1" "$2"; exit 0; }
nap() { sleep 0.05 2>/dev/null || sleep 1; }
resolve() {
  case $FOLDER in /*) root=$FOLDER ;; *) root=$home/$FOLDER ;; esac
  parent=${root%/*}
  if [ -d "$parent" ]; then parent=$(cd "$parent" && pwd -P); root=$parent/${root##*/}; fi
}
started() {
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- ${stat##*) }
  case $1 in Z | X) return 1 ;; esac
  printf %s "${20}"
}
lives() {
  case $1 in '' | *[!0-9]* | 0 | 1) return 1 ;; esac
  [ "$(started "$1")" = "$2" ]
}
look() {
  agent=none pid= start=
  [ -e "$1/agent.pid" ] || return 0
  read -r pid start < "$1/agent.pid"
  if [ -z "$pid" ] || lives "$pid" "$start"; then agent=alive; else agent=dead; fi
}
marked() {
  for file in $(grep -lF "SKYWARD_MACHINE=$root" /proc/[0-9]*/environ 2>/dev/null); do
    if tr '\0' '\n' 2>/dev/null < "$file" | grep -qxF "SKYWARD_MACHINE=$root"; then
      file=${file#/proc/}
      printf '%s\n' "${file%/environ}"
    fi
  done 2>/dev/null
}
age() {
  now=$(date +%s) last=0
  for file in "$root" "$root/machine.json"; do
    changed=$(stat -c %Y "$file" 2>/dev/null) && [ "$changed" -gt "$last" ] && last=$changed
  done
  [ "$last" -gt 0 ] || last=$now
  printf %s "$((now - last))"
}
address() {
  all=$(
    hostname -I 2>/dev/null ||
      ip -o addr show scope global 2>/dev/null | sed 's/.*inet6* \([^/ ]*\).*/\1/'
  )
  for one in $all; do
    case $one in *.*) printf %s "$one"; return ;; esac
  done
  set -- $all
  set -- "$1" ${SSH_CONNECTION:-}
  printf %s "${1:-$4}"
}
report() {
  say host "$(uname -n)"
  say address "$(address)"
  say root "$root"
  [ -d "$root" ] || return 0
  say folder there
  [ -s "$root/machine.json" ] && say lease "$(tr -d '\n' < "$root/machine.json")"
  look "$root"
  say agent "$agent"
  say age "$(age)"
}
lock() {
  command -v flock > /dev/null 2>&1 || return 0
  (: >> "$root.lock") 2>/dev/null || return 0
  exec 9>> "$root.lock"
  tries=0
  until flock -n 9; do
    [ "$tries" -lt 200 ] || return 1
    tries=$((tries + 1))
    nap
  done
}
settle() {
  tries=0
  while [ -d "$root" ] && [ ! -s "$root/machine.json" ] && [ "$tries" -lt 60 ]; do
    tries=$((tries + 1))
    nap
  done
}
mine() { grep -qF "$CLAIM" "$root/machine.json" 2>/dev/null; }
foreign() {
  grep -qF '"host": "' "$root/machine.json" && ! grep -qF "\"host\": \"$(uname -n)\"" "$root/machine.json"
}
stale() {
  look "$root"
  [ "$agent" != alive ] || return 1
  if [ ! -s "$root/machine.json" ]; then [ "$(age)" -gt "$YOUNG" ]; return; fi
  ! foreign && [ "$(age)" -gt "$STALE" ] || return 1
  [ "$agent" = dead ] || [ -z "$(marked)" ]
}
running() {
  for file in "$1/agent.pid" "$1/pids"; do
    [ -e "$file" ] || continue
    while read -r pid start || [ -n "$pid" ]; do
      if lives "$pid" "$start"; then printf '%s\n' "$pid"; fi
    done < "$file"
  done
  marked
}
stop() {
  look "$1"
  tries=0
  while [ "$agent" = alive ] && [ -z "$pid" ] && [ "$tries" -lt 20 ]; do
    tries=$((tries + 1))
    nap
    look "$1"
  done
  if [ "$agent" = alive ] && [ -n "$pid" ] && kill -s TERM "$pid" 2>/dev/null; then
    tries=0
    while lives "$pid" "$start" && [ "$tries" -lt "$GRACE" ]; do
      tries=$((tries + 1))
      nap
    done
  fi
  tries=0
  while left=$(running "$1") && [ -n "$left" ]; do
    [ "$tries" -lt 100 ] || quit stuck "$(printf %s "$left" | tr '\n' ' ')"
    for one in $left; do
      kill -s KILL -- "-$one" 2>/dev/null
      kill -s KILL "$one" 2>/dev/null
    done
    tries=$((tries + 1))
    nap
  done
}
discard() {
  rm -rf "$1" 2>/dev/null || { chmod -R u+rwX "$1" 2>/dev/null; rm -rf "$1"; }
}
end() {
  stop "$root"
  trash=$root.old.$$
  mv "$root" "$trash" 2>/dev/null || return 0
  stop "$trash"
}
cd || quit refused "the account has no home folder"
home=$(pwd -P)
resolve
"""

_PROBE = r"""
say system "$(uname -s)"
say machine "$(uname -m)"
say cpus "$(nproc 2>/dev/null || grep -c '^processor' /proc/cpuinfo)"
say memory "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
place=$root
while [ ! -d "$place" ]; do place=${place%/*}; place=${place:-/}; done
set -- $(df -Pk "$place" | tail -n 1)
say disk "$4"
if [ -n "$CARDS" ] && command -v nvidia-smi > /dev/null 2>&1; then
  if command -v timeout > /dev/null 2>&1; then SMI="timeout 20 $SMI"; fi
  cards=$($SMI 2>/dev/null) && printf '%s\n' "$cards" | while read -r card; do say card "$card"; done
fi
"""

_TAKE = r"""
said=$(mkdir -p "$parent" 2>&1) || quit refused "its folder can't be made ($said)"
resolve
lock || quit busy "another client is at work there"
settle
if [ -d "$root" ]; then
  [ -O "$root" ] || quit refused "$root belongs to another user"
  report
  if mine; then quit taken again; fi
  stale || quit busy yes
  end
fi
said=$(mkdir "$root" 2>&1) || quit refused "its folder can't be made ($said)"
# By cat, because it says why a write fails; a shell's own printf may not.
said=$( (printf '%s"host": "%s"}\n' "$LEASE" "$(uname -n)" | cat > "$root/machine.json") 2>&1 ) || {
  rm -rf "$root"
  quit refused "its folder can't be written to ($said)"
}
report
say taken anew
exec 9>&-
for old in "$root".old.*; do
  if [ -e "$old" ]; then discard "$old"; fi
done
"""

_END = r"""
[ -d "$parent" ] || quit ended nothing
lock || quit busy "another client is at work there"
settle
if [ ! -d "$root" ]; then
  stop "$root"
  quit ended nothing
fi
mine || quit other yes
end
exec 9>&-
discard "$root.old.$$"
say ended yes
"""


def probe(folder: str, *, cards: bool) -> str:
    """Return the script that says what a host has. ``cards``: ask the driver, which may take seconds."""
    return _script(_PROBE, FOLDER=folder, CARDS="yes" if cards else "", SMI=" ".join(NVIDIA_SMI))


def look(folder: str) -> str:
    """Return the script that reads a host's lease."""
    return _script("report", FOLDER=folder)


def take(folder: str, lease: dict[str, object]) -> str:
    """Return the script that leases a host, or finds that it is leased. Run twice, it does it once."""
    # Left open, because the host adds its own name.
    text = json.dumps(lease).removesuffix("}") + ", "
    return _script(
        _TAKE,
        FOLDER=folder,
        CLAIM=_claim(str(lease["claim"])),
        LEASE=text,
        STALE=str(STALE_SECONDS),
        YOUNG=str(YOUNG_SECONDS),
        GRACE=str(GRACE_STEPS),
    )


def end(folder: str, claim: str) -> str:
    """Return the script that ends the machine of a claim, and touches no other."""
    return _script(_END, FOLDER=folder, CLAIM=_claim(claim), GRACE=str(GRACE_STEPS))


def _claim(claim: str) -> str:
    """How a claim stands in ``machine.json``."""
    return f'"claim": {json.dumps(claim)},'


def _script(body: str, **variables: str) -> str:
    values = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f"{values}{_FUNCTIONS}{body}"
