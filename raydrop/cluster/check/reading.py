"""Reading YAML of others: plain values alone, of a size, a depth and a number that are bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from raydrop.errors import ConfigError, visible
from raydrop.store.files import read_regular

MOST_BYTES = 2**18
MOST_NODES = 10_000
"""Keys and values of a file, with what stands in for others by an alias."""
MOST_LEVELS = 50


class _Loader(yaml.SafeLoader):
    """Refuses what would take for ever, or be read as something else by Kubernetes or by eye."""

    nodes = 0
    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias, before = self.check_event(yaml.AliasEvent), self.nodes
        self.level += 1
        if self.level > MOST_LEVELS:
            raise yaml.YAMLError(f"more than {MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        self.level -= 1
        if not alias:
            self.nodes += 1
            node.nodes = self.nodes - before
        elif hasattr(node, "nodes"):
            self.nodes += node.nodes
        else:
            raise yaml.YAMLError("an alias for what it stands in")
        if self.nodes > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES} keys and values")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} twice")
            seen.add(key.value if isinstance(key.value, str) else None)
        return node


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file, of which none makes objects other than plain ones.

    Raises:
        ConfigError: If it cannot be read, or is larger or deeper than a cluster file can be.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode()
        return [each for each in yaml.load_all(text, _Loader) if each is not None]
    except OSError as error:
        raise ConfigError(
            f"Expected a cluster file at {visible(path)}, found: {error.strerror}; check the path."
        ) from error
    except Exception as error:  # values such as `!!int x` end in errors of every kind
        reason = visible(" ".join(str(error).split()))[:500]
        raise ConfigError(
            f"Expected YAML in {visible(path)}, found that it cannot be read ({reason}); "
            "mend it there."
        ) from error
