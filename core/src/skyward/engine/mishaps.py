"""What a set-up that failed on a node printed, in one sentence that says what to do.

Knows the words of uv, apt-get, tar and of ``remote.sh``. What it does not know it leaves to the last line
that was printed. Imported by ``skyward.engine.remote``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What remote.sh says before it gives up by itself.
_REFUSALS = {
    "no-apt": "this machine has no apt-get: leave apt=[...] out, or use a Debian or an Ubuntu",
    "no-root": "apt needs root: log in as root or as a user with sudo that asks for no password, "
    "or install {apt} there by hand",
    "no-flock": "flock is missing: install the package util-linux there",
    "no-uv": "uv is missing, and could be neither sent nor downloaded: install curl or uv there",
    "no-python": "Python {python} is missing, and could be neither downloaded nor sent: install it there, "
    "or run this script with Python {python} on the same kind of system, or let Image(python=...) name one "
    "that is there",
}

# The first that matches decides: what explains other failures comes first.
_KNOWN = tuple(
    (re.compile(pattern, re.IGNORECASE), sentence)
    for pattern, sentence in (
        (
            r"no space left on device|disk quota exceeded|os error (?:28|122)\b|wrote only \d+ of \d+ bytes",
            "the disk is full: free space, or ask for more with disk_gb",
        ),
        (
            r"(?:401|403|407)[^\n]*?(?:for url \(|at )?(?P<what>https?://[^\s)`]+)"
            r"|(?P<url>https?://[^\s)`]+)[^\n]*?(?:lack of valid auth|\((?:401|403)|unauthorized|forbidden)",
            "{what} wants a user and a password, or other ones: PipIndex(url='https://user:password@...')",
        ),
        (
            r"HTTP status (?:server|client) error \([^)]*\) for url \((?P<what>https?://[^\s)]+)",
            "{what} answers with an error, which is printed below: look at the index, or try again later",
        ),
        (
            r"because (?P<what>\S+) was not found in the (?:package registry|cache|provided)",
            "there is no package {what} in the index: mind its spelling in pip=[...]",
        ),
        (
            r"there (?:is|are) no versions? of (?P<what>[^\s,]+)",
            "there is no {what} for this Python and this machine in the index: ask for another version",
        ),
        (
            r"unable to locate package (?P<what>\S+)|package '(?P<url>[^']+)' has no installation candidate",
            "there is no system package {what}: mind its spelling in apt=[...]",
        ),
        (
            r"could not get lock",
            "another program installs system packages there: wait until it is done",
        ),
        (
            r"(?:failed to fetch|error sending request|dns error|could not resolve|temporary failure|"
            r"connection timed out|could not connect|failed to download)(?:[^\n]*?(?P<what>https?://[^\s)`']+))?",
            "the machine can't reach {what}: look at its network, its proxy and its firewall",
        ),
        (
            r"failed to build `?(?P<what>[^\s`]+)",
            "{what} has no wheel for this machine and could not be built: add a compiler with "
            "apt=['build-essential'], or ask for a version that has a wheel",
        ),
        (
            r"no solution found when resolving",
            "the packages don't fit together: loosen a version in pip=[...]",
        ),
        (r"permission denied|read-only file system", "the user may not write there: look at its home folder"),
    )
)


def explain(refusal: str, printed: Iterable[str], *, python: str, apt: Iterable[str]) -> str:
    """Return the sentence. ``refusal``: what remote.sh gave up for, or ''; ``printed``: the last lines."""
    if refusal in _REFUSALS:
        return _REFUSALS[refusal].format(python=python, apt=" ".join(apt))
    lines = [line.strip() for line in printed if line.strip()]
    text = "\n".join(lines)
    for pattern, sentence in _KNOWN:
        match = pattern.search(text)
        if match is not None:
            groups = match.groupdict()
            return sentence.format(what=groups.get("what") or groups.get("url") or "the package index")
    return lines[-1] if lines else "it printed nothing"


def without_secrets(line: str, secrets: Iterable[str]) -> str:
    """Return a line that was printed with nothing in it that may be secret."""
    for secret in secrets:
        line = line.replace(secret, "…")
    return re.sub(r"(?<=://)[^/@\s]+@", "…@", line)
