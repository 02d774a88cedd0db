"""Whether everything in a cluster file speaks of one Ray: that which is installed here.

Nodes of different versions of Ray, or of different minor versions of Python, do not work together,
and `ray up` and `ray job submit` should be those of the cluster.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from raydrop.cluster.check.problem import Problem, Said, shown, texts

PYTHON = re.compile(r"(?:^|[.-])py(3\d+)(?:$|[.-])")
SEPARATORS = re.compile(r"&&|\|\||[;|\n()]")
INSTALL = re.compile(r"\bpip[\d.]*\s+install\b")
RAY = re.compile(r"ray(?P<extras>\[[^\]]*\])?\s*(?P<rest>.*)", re.DOTALL)
WHEEL = re.compile(r"(?:^|/)ray-[^/]*\.whl$")


def ray_version() -> str:
    """Return the version of Ray that is installed here."""
    return version("ray")


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
    """Return the tag of an image's name, or nothing.

    Examples:
        >>> tag_of("registry:5000/raydrop:2.60.0-py311@sha256:00")
        '2.60.0-py311'
        >>> tag_of("registry:5000/raydrop")
        ''
    """
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def installed_rays(command: str) -> list[str]:
    """Return what a shell command asks pip to install as Ray, word by word.

    Examples:
        >>> installed_rays("ray stop; pip install -U 'ray[default]==2.60.0' torch && ray start")
        ['ray[default]==2.60.0']
    """
    found: list[str] = []
    for part in SEPARATORS.split(command.replace("\\\n", " ")):
        pip = INSTALL.search(part)
        if pip is not None:
            found += [word for word in _words(part[pip.end() :]) if _is_ray(word)]
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation that does not end
        return text.split()


def _is_ray(word: str) -> bool:
    """Return whether a word names Ray itself, rather than a package whose name begins so."""
    match = RAY.fullmatch(word)
    named = match is not None and (not match["rest"] or match["rest"][0] in "=~<>!@")
    return named or WHEEL.search(word) is not None


def installs(command: str) -> Iterator[Said]:
    """Yield every Ray that a command installs other than by the version installed here."""
    ray = ray_version()
    for word in installed_rays(command):
        match = RAY.fullmatch(word)
        if match is None or match["rest"].replace(" ", "") != f"=={ray}":
            expected = f"Ray {ray}, which is installed here, to be installed"
            yield expected, word, f"write 'ray[default]=={ray}'"
