"""What opens a cluster to others: addresses, and token authentication that is switched off.

Whoever reaches Ray's ports or its dashboard runs code on every node (CVE-2023-48022), unless a
token is asked for; and the token travels in clear, so both locks are wanted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from raydrop.cluster.check.problem import Problem, Said, texts

MOST_PUBLIC = {4: 2**16, 6: 2**80}
"""Public addresses that all networks of a file together may have: one /16, or one /48."""
PRIVATE = [
    ipaddress.ip_network(each)
    for each in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("127.0.0.0/8", "::1/128", "fc00::/7", "fe80::/10"),
    )
]
NETWORK = re.compile(r"(?<![\w.:])[\da-fA-F.:]{2,45}/\d{1,3}(?!\w)")
EVERYWHERE = re.compile(
    r"(?<![\d.])0+(?:\.0+){3}(?![\d./])|\[[0:.]{2,}\]|(?<![\w:.])(?:::0*|(?:0+:){7}0+)(?![\w:./])"
)
LISTEN = re.compile(
    r"--?(?P<name>(?:[\w-]{0,40}-)?(?:host|bind|listen|ip|bind-addr(?:ess)?|listen-address))"
    r"(?:=|\s+|$)(?P<host>''|\"\"|[\"']?[^\s\"']*)"
)
MODE = re.compile(r"\bRAY_AUTH_MODE['\"]?\s*=\s*['\"]?(\w*)")
TOKEN = re.compile(r"\bRAY_AUTH_TOKEN['\"]?\s*=\s*['\"]?(?!\$|['\"\s]|$)")


def open_doors(config: Any) -> Iterator[Problem]:
    """Yield what lets in, or listens for, more than this cluster and its owner."""
    public: dict[int, list[tuple[str, Any]]] = {4: [], 6: []}
    for where, text in texts(config):
        yield from (Problem(where, *said) for said in _listening(text))
        yield from (Problem(where, *said) for said in _token(text))
        for network in _networks(text):
            public[network.version].append((where, network))
    for version, found in public.items():
        together = ipaddress.collapse_addresses([network for _, network in found])
        addresses = sum(each.num_addresses for each in together)
        if addresses > MOST_PUBLIC[version]:
            names = list(dict.fromkeys(str(network) for _, network in found))
            more = [f"{len(names) - 4} more"] if names[4:] else []
            named = " and ".join([*names[:4], *more])
            world = addresses >= 2 ** (31 if version == 4 else 123)  # half, or all of 2000::/3
            size = "the whole world" if world else f"{addresses:,} public addresses"
            yield Problem(
                found[0][0],
                "a network of your own",
                f"{named}, which is {size}",
                "let in your own address, such as 203.0.113.7/32",
            )


def _networks(text: str) -> Iterator[Any]:
    """Yield the networks of a text that are not private."""
    for found in NETWORK.findall(text):
        try:
            network: Any = ipaddress.ip_network(found, strict=False)
        except ValueError:
            continue
        if not any(network.version == own.version and network.subnet_of(own) for own in PRIVATE):
            yield network


def _listening(text: str) -> Iterator[Said]:
    for match in LISTEN.finditer(text):
        host = match["host"].strip("'\"")
        if match["name"] == "dashboard-host":
            if host not in ("127.0.0.1", "localhost", "::1"):
                remedy = "write --dashboard-host=127.0.0.1 and tunnel to it with `ray dashboard`"
                yield "a dashboard on loopback", match[0], remedy
        elif _is_public(host):
            yield from _everywhere(match[0])
    if found := EVERYWHERE.search(LISTEN.sub("", text)):
        yield from _everywhere(found[0])


def _everywhere(found: str) -> Iterator[Said]:
    yield "nothing that listens on all addresses", found, "name one address, such as 127.0.0.1"


def _is_public(host: str) -> bool:
    """Return whether an address to listen on is one for everybody; names and variables are not."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host in ("", "*", "+") or bool(re.fullmatch(r"0[\dx.]*", host))
    return address.is_unspecified or address.is_global


def _token(text: str) -> Iterator[Said]:
    for mode in MODE.findall(text):
        if mode.lower() != "token":
            yield "token authentication", f"RAY_AUTH_MODE={mode}", "write RAY_AUTH_MODE=token"
    if TOKEN.search(text):
        remedy = "make a new one, and let it travel as the file ~/.ray/auth_token"
        yield "no token in a file that is shown and shared", "one in RAY_AUTH_TOKEN", remedy
