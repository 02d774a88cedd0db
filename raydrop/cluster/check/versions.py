"""Whether everything in a cluster file speaks of one Ray: that which is installed here.

Nodes of different versions of Ray, or of different minor versions of Python, do not work together,
and `ray up` and `ray job submit` should be those of the cluster.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version

from raydrop.cluster.check.problem import Problem

PYTHON = re.compile(r"(?:^|[.-])py(3\d+)(?:$|[.-])")
SEPARATORS = re.compile(r"&&|\|\||[;|\n()]")
INSTALL = re.compile(r"\bpip[\d.]*\s+install\b")
RAY = re.compile(r"ray(?P<extras>\[[^\]]*\])?\s*(?P<rest>.*)", re.DOTALL)
WHEEL = re.compile(r"(?:^|/)ray-[^/]*\.whl$")


def ray_version() -> str:
    """Return the version of Ray that is installed here."""
    return version("ray")


def image_problems(where: str, image: str) -> Iterator[Problem]:
    """Yield a problem if an image's tag does not name the Ray that is installed here.

    Args:
        where: Path of its key.
        image: Its name, such as ``rayproject/ray:2.60.0-py311-gpu``; an image of one's own must
            name its Ray likewise, for nothing else in a cluster file tells.
    """
    ray = ray_version()
    tag = tag_of(image)
    if not re.search(rf"(?<![\d.]){re.escape(ray)}(?![\d.]*\d)", tag):
        yield Problem(
            where,
            f"an image of Ray {ray}, which is installed here, by its tag",
            image,
            f"use one such as rayproject/ray:{ray}-py311-gpu, or name the Ray of your own so",
        )


def python_problems(images: dict[str, str]) -> Iterator[Problem]:
    """Yield a problem if tags name different minor versions of Python.

    Args:
        images: By the path of their keys.
    """
    pythons = {where: found[1] for where, image in images.items() if (found := _python(image))}
    if len(set(pythons.values())) > 1:
        (first, one), *others = pythons.items()
        where, other = next((place, name) for place, name in others if name != one)
        yield Problem(
            where,
            f"the Python of {first}, py{one}",
            f"py{other}",
            "use images of one Python",
        )


def _python(image: str) -> re.Match[str] | None:
    return PYTHON.search(tag_of(image))


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


def install_problems(where: str, command: str) -> Iterator[Problem]:
    """Yield every Ray that a command installs other than by the version installed here."""
    ray = ray_version()
    for word in installed_rays(command):
        match = RAY.fullmatch(word)
        if match is None or match["rest"].replace(" ", "") != f"=={ray}":
            yield Problem(
                where,
                f"Ray {ray}, which is installed here, to be installed",
                word,
                f"write 'ray[default]=={ray}'",
            )
