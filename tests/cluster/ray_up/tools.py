"""The server and the copier that Ray's cluster commands need: from the path, or unpacked here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {"sshd": ("openssh-server", "libwrap0"), "rsync": ("rsync", "libxxhash0", "libpopt0")}
"""Debian's packages of a program, with the libraries that a small system may lack."""
NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child")
COMMANDS = ("unshare", "nsenter", "setpriv", "ip", "mount", "ssh", "ssh-keygen", "bash", "env")


def found(name: str) -> str | None:
    """Return the path of a program, looked for where administrators' programs are too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def reason_to_skip() -> str | None:
    """Return why no machines can be made here, or None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need Linux and the rights of root"
    missing = [name for name in COMMANDS if found(name) is None]
    if missing:
        return f"the commands {', '.join(missing)} are not installed"
    trial = "ip link add veth0 type veth peer name veth1 && mount -t tmpfs none /run"
    return _failure([*NAMESPACES, "sh", "-c", trial], "namespaces are not allowed here")


def _failure(words: list[str], sentence: str, folder: Path | None = None) -> str | None:
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{sentence}: {error}"
    lines = done.stderr.strip().splitlines()
    return f"{sentence}: {lines[-1] if lines else done.returncode}" if done.returncode else None


def fetched(name: str, folder: Path) -> tuple[dict[str, str], str | None]:
    """Return what runs a program, as words for a shell, and the reason where nothing does.

    Args:
        name: Of the program, one of :data:`PACKAGES`.
        folder: For its packages, where it is not installed; nothing is installed.
    """
    path = found(name)
    if path is not None:
        return {"path": path, "libraries": ""}, None
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    sentence = f"{name} is not installed and apt-get could not download it"
    reason = _failure(["apt-get", "download", *PACKAGES[name]], sentence, folder)
    for package in folder.glob("*.deb"):
        reason = reason or _failure(["dpkg", "-x", str(package), str(root)], sentence)
    if reason is not None:
        return {}, reason
    (program,) = [each for each in root.rglob(name) if each.parent.name in ("bin", "sbin")]
    libraries = {str(each.parent) for each in root.rglob("lib*.so*")}
    return {"path": str(program), "libraries": ":".join(sorted(libraries))}, None
