"""Masks passwords and keys in texts: log lines, errors, commands, and what `ps` shows."""

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

__all__ = [
    "MASK",
    "conceal",
    "conceal_address",
    "hide_from_process_list",
    "holds_address_secret",
    "is_literal_secret",
    "is_masked",
    "is_named_secret",
    "known",
    "override_to_write",
    "print_concealed",
    "remember",
    "remember_address",
    "remember_all",
    "revealed",
]

MASK = "***"

_NAMES = "password|passwd|passphrase|pwd|secret|token|credentials?|(?:api|access|secret|private|auth)_?key"
_NAMED = re.compile(rf"(?:.*[_-])?(?:{_NAMES})", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)([^\s'\"]+)(@)", re.IGNORECASE)
_IN_WEB_ADDRESS = re.compile(r"(\bhttps?://)([^\s:/@'\"]+)(@)", re.IGNORECASE)  # a token alone, as GitHub uses it
_IN_QUERY = re.compile(rf"([?&;](?:[\w-]*[_-])?(?:{_NAMES})=)([^&;\s'\"]+)()", re.IGNORECASE)
_SHORTEST = 5  # characters; a shorter text could be part of any word

_known: dict[str, str] = {}
"""The secrets that this process knows, and the text shown in place of each."""


def conceal(text: str) -> str:
    """Mask passwords in addresses, and the secrets that this process knows."""
    return _conceal(text, _known)


def _conceal(text: str, secrets: Mapping[str, str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, secrets[secret])
    return conceal_address(text)


def conceal_address(address: str) -> str:
    """Mask the password in `address`."""
    for pattern in (_IN_ADDRESS, _IN_WEB_ADDRESS, _IN_QUERY):
        address = pattern.sub(_masked, address)
    return address


def _masked(found: "re.Match[str]") -> str:
    return found[0] if "${" in found[2] else f"{found[1]}{MASK}{found[3]}"


def is_masked(value: Any) -> bool:
    """Whether the value stands for a masked secret."""
    return isinstance(value, str) and (value == MASK or f":{MASK}@" in value or f"={MASK}" in value)


def is_named_secret(key: str) -> bool:
    """Whether the last part of `key` names a secret: `logger.api_key` does, `model.token_size` does not."""
    return _NAMED.fullmatch(key.rpartition(".")[2].lstrip("+~")) is not None


def is_literal_secret(key: str, value: Any) -> bool:
    """Whether the setting is named like a secret and its value is literal."""
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return is_named_secret(key) and is_text and value != "" and "${" not in str(value)


def override_to_write(line: str) -> str:
    """Return an override with its secrets masked, to be written or shown."""
    key, separator, value = line.partition("=")
    if separator and is_literal_secret(key, value.strip("'\"")) and value not in ("null", "true", "false"):
        return f"{key}={MASK}"
    within = rf"((?:^|[{{,])\s*['\"]?(?:[\w-]*[_-])?(?:{_NAMES})['\"]?\s*:\s*)([^,}}\s]+)()"  # in {api_key:...}
    line = re.sub(within, _masked, line, flags=re.IGNORECASE) if "{" in value else line
    return _conceal(line, {secret: shown for secret, shown in _known.items() if MASK in shown})


def remember_address(address: str) -> None:
    if (shown := conceal_address(address)) != address:
        remember(address, shown)
    for pattern in (_IN_ADDRESS, _IN_QUERY):
        for found in pattern.finditer(address):
            remember(found[2], MASK)
            remember(unquote(found[2]), MASK)


def remember(secret: str, shown: str) -> None:
    if len(secret) >= _SHORTEST and MASK not in secret:
        _known.setdefault(secret, shown)


def known() -> dict[str, str]:
    """Return the known secrets, for another process to `remember`."""
    return dict(_known)


def remember_all(secrets: Mapping[str, str]) -> None:
    _known.update(secrets)


def revealed(text: str) -> str:
    """Return the address whose masked form is `text` if this process knows it, else `text`."""
    return next((secret for secret, shown in _known.items() if shown == text and "://" in secret), text)


def holds_address_secret(value: str) -> bool:
    return conceal_address(value) != value


def hide_from_process_list(arguments: Iterable[str]) -> None:
    """Remove the secrets among the command line's `arguments` from what `ps` shows of this process (Linux only)."""
    secrets = [line for line in arguments if override_to_write(line) != line]
    if not secrets or sys.platform != "linux":
        return
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # where the kernel reads them
        shown = Path("/proc/self/cmdline").read_bytes()
        if not 0 < start < end or end - start != len(shown):
            return
        for line in secrets:
            shown = shown.replace(os.fsencode(line), os.fsencode(override_to_write(line)))
        ctypes.memmove(start, shown.ljust(end - start, b"\0")[: end - start], end - start)


def print_concealed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception as `sys.excepthook` does, with secrets masked."""
    import traceback

    print(conceal("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
