"""Several studies on one footing: one table and one figure.

Studies can stand beside each other where they were tested on the same samples, which the
fingerprint of their data tells. Each keeps its points; the marks of the fronts are about all
points together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from raydrop.errors import ConfigError, StudyMismatchError, visible
from raydrop.frontier.records import Records, load_records
from raydrop.frontier.summary import remarks
from raydrop.frontier.table import table_of, with_fronts
from raydrop.frontier.units import NEUTRAL
from raydrop.store import Place, open_place
from raydrop.store.files import csv_text
from raydrop.study import By

ABOUT_ONE_STUDY = ["front_probability", "front_status"]
"""Columns of ``frontier.csv`` that resample the points of one study, so they say nothing of all."""


@dataclass(frozen=True, eq=False)
class Overlay:
    """Studies side by side, and what was written of them."""

    studies: Mapping[str, Records]
    """Their records, by the name that each goes by here."""
    table: pd.DataFrame
    """As from :func:`overlay_table`."""
    place: Place
    paths: Mapping[str, Path]
    """The written files by name."""
    by: By

    def remarks(self) -> list[str]:
        """Return what a reader has to know besides, a sentence each, with the study's name."""
        return [
            f"{name}: {line}" for name, records in self.studies.items() for line in remarks(records)
        ]


def write_overlay(
    directories: Sequence[str | Path], out: str | Path, by: str | None = None
) -> Overlay:
    """Lay the frontiers of several studies over each other.

    Writes ``overlay.csv``, ``overlay.png`` and ``overlay.svg`` into ``out``, made where it is not
    there; the studies' own folders stay as they are. ``by`` is as for
    :func:`~raydrop.frontier.write_frontier`.

    Raises:
        ConfigError: If there are fewer than two folders, one is named twice, or the studies are
            not about the same.
        StudyMismatchError: If the studies were tested on different data.
        StoreError: If a folder cannot be read or written.
        IncompleteStudyError: If a study has no finished trial.
    """
    from raydrop.frontier.figures.canvas import to_png, to_svg
    from raydrop.frontier.figures.chart import overlay_chart
    from raydrop.frontier.figures.frontier import overlay_figure

    _check_distinct(directories)
    loaded = [load_records(directory) for directory in directories]
    _check_same_data(loaded)
    loaded = [records.about(by) for records in loaded]
    _check_same_unit(loaded)
    studies = dict(zip(study_names(loaded), loaded, strict=True))
    table, unit = overlay_table(studies), loaded[0].unit
    figure = overlay_figure(overlay_chart(table))
    files = {
        "overlay.csv": csv_text(filed(table)).encode(),
        "overlay.png": to_png(figure),
        "overlay.svg": to_svg(figure),
    }
    place = open_place(out)
    place.make()
    paths = {name: place.write(name, content) for name, content in files.items()}
    return Overlay(studies, table, place, paths, unit)


def filed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``overlay.csv``."""
    return table.drop(columns=["unit", *NEUTRAL], errors="ignore")


def study_names(studies: Sequence[Records]) -> list[str]:
    """Return as many different names: the studies' own; with the folder where they are the same."""
    names = [str(records.provenance["name"]) for records in studies]
    for candidates in (
        [records.place.short_name for records in studies],
        [records.place.called() for records in studies],
    ):
        counts = Counter(names)
        names = [
            f"{name} ({visible(other)})" if counts[name] > 1 else name
            for name, other in zip(names, candidates, strict=True)
        ]
    return names


def overlay_table(studies: Mapping[str, Records]) -> pd.DataFrame:
    """Return the points of all studies, by their names, with fronts over all of them.

    That is ``study``, the columns of ``frontier.csv`` but :data:`ABOUT_ONE_STUDY`, and the neutral
    ones; studies in the order given.
    """
    tables = []
    for name, records in studies.items():
        table = table_of(records).drop(columns=ABOUT_ONE_STUDY)
        table.insert(0, "study", name)
        tables.append(table)
    return with_fronts(pd.concat(tables, ignore_index=True))


def _check_distinct(directories: Sequence[str | Path]) -> None:
    places = Counter(map(_same_place, directories))
    if len(directories) < 2:
        raise ConfigError(
            f"Expected two or more output folders for --out, found {len(directories)}; name "
            "another, or leave out --out, since a study's own frontier is written into its folder."
        )
    twice = next((place.short_name for place, count in places.items() if count > 1), None)
    if twice is not None:
        raise ConfigError(
            f"Expected different output folders, found {twice} more than once; name each once."
        )


def _same_place(directory: str | Path) -> Place:
    """Return the one place of a folder, whatever links lead there, or of a URL."""
    place = open_place(directory)
    return place if place.remote else Place(place.folder.resolve())


def _check_same_data(studies: Sequence[Records]) -> None:
    def data(records: Records) -> str:
        fingerprint = records.provenance["data_fingerprint"][:12]
        return f"{records.provenance['dataset']} ({fingerprint}) in {records.place.called()}"

    for other in studies[1:]:
        if other.provenance["data_fingerprint"] != studies[0].provenance["data_fingerprint"]:
            raise StudyMismatchError(
                f"Expected studies with the same test set, found {data(studies[0])} and "
                f"{data(other)}, so their accuracies cannot be compared; name studies of the "
                "same data."
            )


def _check_same_unit(studies: Sequence[Records]) -> None:
    if len({records.unit for records in studies}) > 1:
        found = ", ".join(f"{records.by} in {records.place.called()}" for records in studies)
        raise ConfigError(
            f"Expected studies that are all about classes or all about groups, found {found}; "
            "choose with --by."
        )
