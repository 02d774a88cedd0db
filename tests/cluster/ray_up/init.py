"""The first process of a machine: makes its folders its own, starts sshd, and buries the dead.

It runs in namespaces of its own, so that nothing of it is seen outside and all of it ends with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def mount(*words: str | Path) -> None:
    """Mount something for this machine alone."""
    subprocess.run(["mount", *map(str, words)], check=True)


def own_tmp(folder: Path, kept: list[str]) -> None:
    """Put an empty folder in place of /tmp, in which some paths are still what they were."""
    for path in {path for path in kept if path.startswith("/tmp/")}:
        place = folder / path.removeprefix("/tmp/")
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", path, place)
    mount("--rbind", folder, "/tmp")


def own_users(folder: Path, home: Path) -> None:
    """Give root another home, which ssh takes from here, and sshd the user that it asks for."""
    (folder / "passwd").write_text(
        f"root:x:0:0:root:{home}:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    (folder / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    for name in ("passwd", "shadow"):
        mount("--bind", folder / name, f"/etc/{name}")


def main() -> None:
    """Set the machine up as its arguments say, and stay."""
    arguments = json.loads(sys.argv[1])
    folder = Path(arguments["folder"])
    mount("-t", "tmpfs", "none", "/run")
    mount("-t", "tmpfs", "none", "/dev/shm")
    Path("/run/sshd").mkdir(mode=0o755)
    own_users(folder, folder / "home")
    own_tmp(folder / "tmp", arguments["kept"])
    if arguments["sshd"]:
        subprocess.run(arguments["sshd"], env=arguments["environment"], check=True)
    print("ready", flush=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
