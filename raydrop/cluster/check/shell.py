"""Policy for commands of nodes, for options of `docker run`, and for what is copied to nodes.

Commands are code, and nobody can say of code what it will do: here mistakes and bad advice are
named, by what a command is for. Options and paths are allowed by name, as all else is.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from raydrop.cluster.check.problem import Policy, Said, any_of, no, refused, sequence, shown
from raydrop.cluster.check.versions import installs

RAY_START: dict[str, Policy] = {
    "ray-debugger-external": no(
        "no debugger for other machines, which runs what it is sent", "leave it out"
    ),
    **any_of(
        "address autoscaling-config block dashboard-agent-grpc-port dashboard-agent-listen-port "
        "dashboard-host dashboard-port disable-usage-stats head include-dashboard "
        "include-log-monitor labels log-color log-style max-worker-port memory "
        "metrics-export-port min-worker-port no-redirect-output node-ip-address "
        "node-manager-port num-cpus num-gpus object-manager-port object-spilling-directory "
        "object-store-memory plasma-directory port ray-client-server-port resources "
        "runtime-env-agent-port temp-dir worker-port-list"
    ),
}
"""Options of `ray start`, which KubeRay calls its parameters."""

PUNCTUATION = "();<>|&\n`"
PREFIX = re.compile(r"sudo|env|nohup|exec|time|timeout|nice|setsid|xargs|then|do|else|!|-.*|\d.*")
NAMING = re.compile(
    r"apt|apt-get|yum|dnf|apk|conda|mamba|pip[\d.]*|uv|which|command|echo|rm|grep|pkill"
)
"""Programs that name others without running them."""
SHELL = re.compile(r"(ba|da|z|k|fi)?sh|python[\d.]*|perl|ruby|node|eval|source|\.")
FETCHED = (
    "nothing run that comes straight from the network",
    "install it with pip, apt or conda, or bake it into the image",
)
REFUSED = {
    r"curl|wget|aria2c|nc|ncat|netcat|socat|telnet|[tl]?ftp|lynx|w3m|/dev/(tcp|udp)/.*": FETCHED,
    r"ngrok|cloudflared|sshd|ip6?tables|nft|ufw|firewall-(cmd|rules)|http\.server|--bind_all"
    r"|SimpleHTTPServer|authorized_keys|authorize-security-group-ingress|-R\S*:\S*": (
        "no door besides ssh and Ray's own",
        "leave it out, and tunnel through ssh",
    ),
    r"docker|podman|nerdctl|ctr|crictl|nsenter|chroot|\w+\.sock": (
        "no container besides Ray's own",
        "describe it under docker",
    ),
}
"""What no word of a command may name, by what it is for."""
IMAGES = {"pull", "login", "image", "images", "info", "version", "ps"}
TOKEN_USERS = {"chmod", "test", "[", "[[", "ls", "stat", "export", "umask", "mkdir"}
PRIVATE_MODE = re.compile(r"0?[0-7]00|(u[-+=][rwxX]*|[go]+(=|-[rwxX]*)|,)+")
HOME = re.compile(r"(~|\$HOME|\$\{HOME\}|/root|/home/[^/]+)?/?[*.]*")
MOST_QUOTES = 5
"""Levels of commands within quotations of others that are looked at."""


class Step(NamedTuple):
    """One program that a command runs."""

    words: list[str]
    fed: bool
    """Whether its input is what another one writes."""


def command(text: Any) -> Iterator[Said]:
    """Yield what a command of a node, a text or a list of words, should not do."""
    line = text if isinstance(text, str) else shlex.join(map(str, sequence(text)))
    yield from installs(line)
    for words, fed in _steps(line):
        found = shlex.join(words)
        own = list(itertools.dropwhile(lambda w: "=" in w or PREFIX.fullmatch(w), words)) or [""]
        program = own[0].rpartition("/")[2] or own[0]
        for pattern, (expected, remedy) in REFUSED.items():
            named = own[:1] if NAMING.fullmatch(program) else words
            fetched = program in ("docker", "podman") and IMAGES & set(own[1:3])
            if not fetched and any(re.fullmatch(rf"(.*/)?({pattern})", word) for word in named):
                yield expected, found, remedy
        if SHELL.fullmatch(program) and (fed or _made(own, found)):
            yield FETCHED[0], found, FETCHED[1]
        token = any("auth_token" in word for word in own)
        if program == "chmod" and not _private(own[1:]):
            yield "a token that its owner alone reads", found, "write chmod 600"
        elif token and program not in TOKEN_USERS:
            yield "a token that travels as one of file_mounts alone", found, "leave it there"
        if program == "ray" and own[1:2] == ["start"]:
            parameters = {w[2:].partition("=")[0]: True for w in own if w[:2] == "--"}
            for problem in refused(parameters, RAY_START):
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


def _steps(text: str, quotes: int = 0) -> Iterator[Step]:
    words: list[str] = []
    fed = False
    tokens = _tokens(text)
    for token in [*tokens, ";"]:
        if not set(token) <= set(PUNCTUATION):
            words.append(token)
            continue
        if words:
            yield Step(words, fed or token in ("<(", "<<<"))
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


WORD = re.compile(r"[\w~./@:+$][\w~./@:+$-]*")
STORAGE = re.compile(
    r"/(data|datasets|efs|fsx|lustre|media|mnt|nfs|scratch|shared|srv|storage)(/.*)?|/tmp/.+"
    r"|(~|\$HOME|\$\{HOME\}|/(home|Users)/[^/]+)/.+"
)
"""Folders that hold data, rather than what a machine or its owner lives on."""
HIDDEN = re.compile(r"(^|/)\.[^/]|[\s:,;|&<>`()]")
DOCKER = {
    **dict.fromkeys(any_of("--volume -v"), re.compile(r"(?P<path>[^:]+):/[^:]*(:(ro|rw|z|Z))?")),
    **dict.fromkeys(any_of("--network --net"), re.compile("host|bridge")),  # host is Ray's choice
    **dict.fromkeys(
        any_of(
            "--env -e --gpus --shm-size --ulimit --memory -m --memory-swap --cpus --cpuset-cpus "
            "--label -l --log-opt --workdir -w --tmpfs --cap-drop --stop-timeout"
        ),
        re.compile(r".+"),
    ),
    "--runtime": re.compile("nvidia"),
}
"""Options of `docker run` that reach no further than the container, and their values."""


def one_word(text: Any) -> Iterator[Said]:
    """Yield a name, a path or an address that a shell or ssh would take for more than that."""
    if not WORD.fullmatch(str(text)):
        yield "one word of letters, digits and any of ~ . / @ : + -", shown(text), "write that"


def storage(path: str) -> bool:
    """Return whether a folder of a machine holds data alone.

    Examples:
        >>> [storage(path) for path in ("/shared", "/mnt/a", "/home/me/data", "~/data")]
        [True, True, True, True]
        >>> [storage(path) for path in ("/", "/etc", "/home/me/", "/mnt/../etc", "~/.ssh")]
        [False, False, False, False, False]
    """
    return STORAGE.fullmatch(path) is not None and not HIDDEN.search(path)


def docker_options(options: Any) -> Iterator[Said]:
    """Yield options of `docker run` that reach beyond the container, or are not known not to."""
    line = " ".join(map(str, sequence(options)))
    if set(PUNCTUATION) & set(line):
        yield "options alone", line, "write options that no shell would run"
        return
    words = iter(_tokens(line))
    for word in words:
        name, equals, value = word.partition("=")
        if name in DOCKER and not equals:
            value = next(words, "")
        match = DOCKER[name].fullmatch(value) if name in DOCKER else None
        path = (match and match.groupdict().get("path")) or "/data"
        if match is None or not (storage(path) or re.fullmatch(r"\w[\w.-]*", path)):
            remedy = "leave it out; a --volume is of a folder of data, such as below /mnt"
            expected = "options that reach no further than the container"
            yield expected, f"{name} {value}".strip(), remedy


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
