"""Rules for what no table can list: commands, options of `docker run`, images, addresses, tokens.

Commands are code, and nobody can say of code what it will do: mistakes and bad advice are named, by
what a command is for. Options and paths are allowed by name, as all else is.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Any

from raydrop.cluster.check.policy import (
    Problem,
    Said,
    given,
    mapping,
    policies,
    ray_version,
    refused,
    rule,
    sequence,
    shown,
    texts,
)

PUNCTUATION = "();<>|&\n`"
PRIVATE_MODE = re.compile(r"0?[0-7]00|(u[-+=][rwxX]*|[go]+(=|-[rwxX]*)|,)+")
HOME = re.compile(r"(~|\$HOME|\$\{HOME\}|/root|/home/[^/]+)?/?[*.]*")
MOST_QUOTES = 5
"""Levels of commands within quotations of others that are looked at."""


def _is(kind: str, word: str) -> bool:
    return re.fullmatch(policies()["words"][kind], word) is not None


@rule
def command(text: Any) -> Iterator[Said]:
    """Yield what a command of a node, a text or a list of words, should not do."""
    line = text if isinstance(text, str) else shlex.join(map(str, sequence(text)))
    yield from installs(line)
    for words, fed in _steps(line):
        yield from _program(words, fed=fed)


def _program(words: list[str], *, fed: bool) -> Iterator[Said]:
    """Yield what a program that is run should not do; ``fed`` if another writes its input."""
    found, tables = shlex.join(words), policies()["words"]
    own = list(itertools.dropwhile(lambda w: "=" in w or _is("prefixes", w), words)) or [""]
    program = own[0].rpartition("/")[2] or own[0]
    named = own[:1] if _is("naming", program) else words
    pulled = _is("containers", program) and any(_is("images", word) for word in own[1:3])
    for pattern, expected, remedy in () if pulled else tables["refused"]:
        if any(re.fullmatch(rf"(.*/)?({pattern})", word) for word in named):
            yield expected, found, remedy
    if _is("shells", program) and (fed or _made(own, found)):
        yield tables["made"][0], found, tables["made"][1]
    if program == "chmod" and not _private(own[1:]):
        yield "a token that its owner alone reads", found, "write chmod 600"
    elif not _is("token_users", program) and any("auth_token" in word for word in own):
        yield "a token that travels as one of file_mounts alone", found, "leave it there"
    if program == "ray" and own[1:2] == ["start"]:
        parameters = {w[2:].partition("=")[0]: True for w in own if w[:2] == "--"}
        for problem in refused(parameters, policies()["ray_start"]):
            yield problem.expected, f"--{problem.where}", problem.remedy


def _made(words: list[str], found: str) -> bool:
    """Return whether a shell's code is what another command writes, or names an address."""
    codes = [code for flag, code in itertools.pairwise(words) if re.fullmatch(r"-\w*[ce]", flag)]
    away = "://" in found and bool(codes or words[0] == "eval")
    return away or any(code[:2] == "$(" or code[0] == "`" or code == "$" for code in codes if code)


def _private(words: list[str]) -> bool:
    """Return whether `chmod` leaves the token, and the folders that it is in, to its owner."""
    options = [word for word in words if re.fullmatch(r"-[A-Zcfv]\w*|--[a-z]+", word)]
    mode, *paths = [word for word in words if word not in options] or [""]
    deep = any("R" in word or word == "--recursive" for word in options)
    near = any(".ray" in p or "auth" in p or (deep and HOME.fullmatch(p)) for p in paths)
    return not near or PRIVATE_MODE.fullmatch(mode) is not None


def _steps(text: str, quotes: int = 0) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each program that runs, and whether another one writes its input."""
    words: list[str] = []
    fed = False
    tokens = _tokens(text)
    for token in [*tokens, ";"]:
        if not set(token) <= set(PUNCTUATION):
            words.append(token)
            continue
        if words:
            yield words, fed or token in ("<(", "<<<")
        words, fed = [], token in ("|", "|&")
    for token in tokens if quotes < MOST_QUOTES else ():
        if token != text and re.search(r"[\s`]|\$\(", token):
            yield from _steps(token, quotes + 1)


def _tokens(text: str) -> list[str]:
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=PUNCTUATION)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    try:
        return list(lexer)
    except ValueError:  # a quotation that does not end
        return re.findall(r"[();<>|&\n`]+|[^\s();<>|&`]+", text)


# Options of containers, and what is copied to nodes.

WORD = re.compile(r"[\w~./@:+$][\w~./@:+$-]*")
STORAGE = re.compile(
    r"/(data|datasets|efs|fsx|lustre|media|mnt|nfs|scratch|shared|srv|storage)(/.*)?|/tmp/.+"
    r"|(~|\$HOME|\$\{HOME\}|/(home|Users)/[^/]+)/.+"
)
"""Folders that hold data, rather than what a machine or its owner lives on."""
HIDDEN = re.compile(r"(^|/)\.[^/]|[\s:,;|&<>`()]")


@rule
def one_word(text: Any) -> Iterator[Said]:
    """Yield a name, a path or an address that a shell or ssh would take for more than that."""
    if not WORD.fullmatch(str(text)):
        yield "one word of letters, digits and any of ~ . / @ : + -", shown(text), "write that"


def _storage(path: str) -> bool:
    """Return whether a folder of a machine holds data alone."""
    return STORAGE.fullmatch(path) is not None and not HIDDEN.search(path)


@rule
def docker_options(options: Any) -> Iterator[Said]:
    """Yield options of `docker run` that reach beyond the container, or are not known not to."""
    line = " ".join(map(str, sequence(options)))
    if set(PUNCTUATION) & set(line):
        yield "options alone", line, "write options that no shell would run"
        return
    tables = policies()["docker_run"].items()
    known = {name: form for names, form in tables for name in names.split()}
    words = iter(_tokens(line))
    for word in words:
        name, equals, value = word.partition("=")
        if name in known and not equals:
            value = next(words, "")
        match = re.fullmatch(known[name], value) if name in known else None
        path = (match and match.groupdict().get("path")) or "/data"
        if match is None or not (_storage(path) or re.fullmatch(r"\w[\w.-]*", path)):
            remedy = "leave it out; a --volume is of a folder of data, such as below /mnt"
            expected = "options that reach no further than the container"
            yield expected, f"{name} {value}".strip(), remedy


@rule
def mounts(value: Any) -> Iterator[Said]:
    """Yield what is copied to the nodes though it is neither the token nor a folder of work."""
    pairs = value if isinstance(value, dict) else dict.fromkeys(map(str, sequence(value)))
    for remote, local in pairs.items():
        source = str(remote if local is None else local)
        for path in {str(remote), source}:
            if set(PUNCTUATION) & set(path):
                yield "paths alone", path, "write paths that no shell would run"
        if source.rstrip("/") in ("", "~", "$HOME") or re.search(
            r"(^|/)\.(?!\.?(/|$)|ray/auth_token$)", source
        ):
            remedy = "leave keys and settings where they are, and copy folders of work"
            yield "no home and no hidden folder of yours on the nodes", source, remedy


# Parts of machines and pods.


@rule
def not_reclaimed(value: Any) -> Iterator[Said]:
    """Yield what lets a cloud take back the head."""
    for part in map(mapping, value if isinstance(value, list) else [value]):
        market = {part.get("MarketType"), part.get("provisioningModel")} & {"spot", "SPOT"}
        if market or part.get("preemptible"):
            expected = "a head that is not reclaimed, since the cluster ends with it"
            yield expected, "one that its cloud may take back", "keep spot machines for workers"


@rule
def no_cpus(value: Any) -> Iterator[Said]:
    """Yield a head that runs trials."""
    if mapping(value).get("CPU") != 0:
        yield "0 CPUs, for a head that runs no trials", repr(value), "write resources: {CPU: 0}"


@rule
def resources(value: Any) -> Iterator[Said]:
    """Yield amounts that a pod does not ask for."""
    for kind in ("requests", "limits"):
        amounts = mapping(mapping(value).get(kind))
        lacking = [name for name in ("cpu", "memory") if not given(amounts.get(name))]
        if lacking:
            found = f"no {' and no '.join(lacking)}"
            yield f"cpu and memory in {kind}", found, "say how much of its node the pod may take"


@rule
def variable(value: Any) -> Iterator[Said]:
    """Yield variables of a pod that switch off the token, or say it."""
    name, text = mapping(value).get("name"), mapping(value).get("value")
    if name == "RAY_AUTH_MODE" and text != "token":
        remedy = "remove it; KubeRay sets it by authOptions"
        yield "token authentication", f"RAY_AUTH_MODE={text}", remedy
    if name == "RAY_AUTH_TOKEN" and given(text):
        remedy = "make a new one, and let KubeRay keep it in a Secret"
        yield "no token in a file that is shown and shared", "one in RAY_AUTH_TOKEN", remedy


# Versions. Nodes of different ones of Ray, or of different minor ones of Python, do not work
# together, and `ray up` and `ray job submit` should be those of the cluster.

PYTHON = re.compile(r"(?:^|[.-])py(3\d+)(?:$|[.-])")
SEPARATORS = re.compile(r"&&|\|\||[;|\n()]")
INSTALL = re.compile(r"\bpip[\d.]*\s+install\b")
RAY = re.compile(r"ray(\[[^\]]*\])?\s*(?P<rest>([=~<>!@].*)?)|(.*/)?ray-[^/]*\.whl", re.DOTALL)
"""Ray itself, rather than a package whose name begins so."""


@rule
def image(name: Any) -> Iterator[Said]:
    """Yield what is wrong with an image whose tag does not name the Ray that is installed here.

    One of one's own must name its Ray likewise, for nothing else in a cluster file tells.
    """
    ray = ray_version()
    tag = tag_of(str(name)) if re.fullmatch(r"[\w./:@-]+", str(name)) else ""  # or it runs more
    if not re.search(rf"(?<![\d.]){re.escape(ray)}(?![\d.]*\d)", tag):
        expected = f"an image of Ray {ray}, which is installed here, by its tag"
        own = f"use one such as rayproject/ray:{ray}-py311-gpu, or name the Ray of your own so"
        yield expected, shown(name), own


def python_problems(config: Any) -> Iterator[Problem]:
    """Yield a problem if the tags of a file's images name different minor versions of Python."""
    named = ((where, PYTHON.search(tag_of(text))) for where, text in texts(config))
    pythons = {where: tag[1] for where, tag in named if tag and where.endswith("image")}
    if len(set(pythons.values())) > 1:
        (first, one), *others = pythons.items()
        where, other = next((place, name) for place, name in others if name != one)
        expected = f"the Python of {first}, py{one}"
        yield Problem(where, expected, f"py{other}", "use images of one Python")


def tag_of(image: str) -> str:
    """Return the tag of an image's name, or nothing."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def installed_rays(command: str) -> list[str]:
    """Return what a shell command asks pip to install as Ray, word by word."""
    found: list[str] = []
    for part in SEPARATORS.split(command.replace("\\\n", " ")):
        for text in INSTALL.split(part, maxsplit=1)[1:]:
            try:
                words = shlex.split(text)
            except ValueError:  # a quotation that does not end
                words = text.split()
            found += filter(RAY.fullmatch, words)
    return found


def installs(command: str) -> Iterator[Said]:
    """Yield every Ray that a command installs other than by the version installed here."""
    ray = ray_version()
    for word in installed_rays(command):
        match = RAY.fullmatch(word)
        if match is None or (match["rest"] or "").replace(" ", "") != f"=={ray}":
            expected = f"Ray {ray}, which is installed here, to be installed"
            yield expected, word, f"write 'ray[default]=={ray}'"


# What opens a cluster to others. Whoever reaches Ray's ports or its dashboard runs code on every
# node (CVE-2023-48022), unless a token is asked for; and the token travels in clear, so both locks
# are wanted.

MOST_PUBLIC = {4: 2**16, 6: 2**80}
"""Public addresses that all networks of a file together may have: one /16, or one /48."""
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
        for said in (*_listening(text), *_token(text)):
            yield Problem(where, *said)
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
            remedy = "let in your own address, such as 203.0.113.7/32"
            yield Problem(found[0][0], "a network of your own", f"{named}, which is {size}", remedy)


def _networks(text: str) -> Iterator[Any]:
    """Yield the networks of a text that are not private."""
    for found in NETWORK.findall(text):
        try:
            network: Any = ipaddress.ip_network(found, strict=False)
        except ValueError:
            continue
        if not any(
            network.version == own.version and network.subnet_of(own) for own in _private_networks()
        ):
            yield network


@functools.cache
def _private_networks() -> list[Any]:
    return [ipaddress.ip_network(each) for each in policies()["private_networks"]]


def _listening(text: str) -> Iterator[Said]:
    everywhere = "nothing that listens on all addresses"
    for match in LISTEN.finditer(text):
        host = match["host"].strip("'\"")
        if match["name"] == "dashboard-host":
            if host not in ("127.0.0.1", "localhost", "::1"):
                remedy = "write --dashboard-host=127.0.0.1 and tunnel to it with `ray dashboard`"
                yield "a dashboard on loopback", match[0], remedy
        elif _is_public(host):
            yield everywhere, match[0], "name one address, such as 127.0.0.1"
    if found := EVERYWHERE.search(LISTEN.sub("", text)):
        yield everywhere, found[0], "name one address, such as 127.0.0.1"


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
