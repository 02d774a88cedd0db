"""What opens a cluster to others: addresses, and token authentication that is switched off.

Whoever reaches Ray's ports or its dashboard runs code on every node (CVE-2023-48022), unless a
token is asked for; and the token travels in clear, so both locks are wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raydrop.cluster.check.problem import Problem, texts

WORLD = re.compile(r"(?<![\d.])0\.0\.0\.0/0|(?<![\w:])::/0")
EVERYWHERE = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d./])")
DASHBOARD = re.compile(r"--dashboard-host(?:=|\s+)['\"]?([^\s'\"]+)")
DEBUGGER = "--ray-debugger-external"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MODE = re.compile(r"\bRAY_AUTH_MODE['\"]?\s*=\s*['\"]?(\w*)")
TOKEN = re.compile(r"\bRAY_AUTH_TOKEN['\"]?\s*=\s*['\"]?(?!\$|['\"\s]|$)")


def open_addresses(config: Any) -> Iterator[Problem]:
    """Yield what listens for, or lets in, more than this cluster and its owner."""
    for where, text in texts(config):
        yield from _open_addresses(where, text)


def _open_addresses(where: str, text: str) -> Iterator[Problem]:
    for network in WORLD.findall(text):
        yield Problem(
            where,
            "a network of your own",
            f"{network}, which is the whole world",
            "let in your own address, such as 203.0.113.7/32",
        )
    for host in DASHBOARD.findall(text):
        if host not in LOOPBACK:
            yield Problem(
                where,
                "a dashboard on loopback",
                f"--dashboard-host={host}",
                "write --dashboard-host=127.0.0.1 and tunnel to it with `ray dashboard`",
            )
    if EVERYWHERE.search(DASHBOARD.sub("", text)):
        yield Problem(
            where,
            "nothing that listens on all addresses",
            "0.0.0.0",
            "name one address, such as 127.0.0.1",
        )
    if DEBUGGER in text:
        yield Problem(
            where,
            "no debugger for other machines, which runs what it is sent",
            DEBUGGER,
            "leave it out",
        )


def open_authentication(config: Any) -> Iterator[Problem]:
    """Yield where token authentication is switched off, or the token itself is written down."""
    for where, text in texts(config):
        for mode in MODE.findall(text):
            if mode.lower() != "token":
                yield Problem(
                    where,
                    "token authentication",
                    f"RAY_AUTH_MODE={mode}",
                    "write RAY_AUTH_MODE=token",
                )
        if TOKEN.search(text):
            yield Problem(
                where,
                "no token in a file that is shown and shared",
                "one in RAY_AUTH_TOKEN",
                "make a new one, and let it travel as the file ~/.ray/auth_token",
            )
