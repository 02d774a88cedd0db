"""The table of a paper, in three formats."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import GROUPED, TRANSFER, FakeStudy

from raydrop.errors import ConfigError, IncompleteStudyError, StoreError, visible
from raydrop.frontier import frontier_table, load_records
from raydrop.frontier.export import ROW, escape, export_table, latex_table, wide_table

STUDY = FakeStudy(losses=("cross_entropy", "cdb_w"), seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return STUDY.write(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    records = load_records(folder)
    return frontier_table(records.trials, records.class_names)


def _rows(text: str) -> list[list[str]]:
    """Rows of a tabular as cells, rules left out."""
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = re.sub(r"\\(midrule|cmidrule\S*)", "", body).split(r"\\")
    return [[cell.strip() for cell in line.split("&")] for line in lines if line.strip()]


def _columns(row: list[str]) -> int:
    """Columns that a row fills, with what spans several."""
    spans = [re.match(r"\\multicolumn\{(\d+)\}", cell) for cell in row]
    return sum(int(span[1]) if span else 1 for span in spans)


def test_every_number_is_that_of_the_frontier_table(table: pd.DataFrame) -> None:
    wide = wide_table(table).set_index(list(ROW))
    assert len(wide) == 2 * (2 * 2 + 1)
    for point in table.to_dict("records"):
        row = wide.loc[tuple(point[name] for name in ROW)]
        for name in ("average_accuracy", "worst_class_accuracy"):
            for end in ("", "_min", "_max"):
                column = f"keep_{point['keep_fraction']:g}_{name}{end}"
                assert row[column] == point[f"{name}{end}"]
        assert row[f"keep_{point['keep_fraction']:g}_n_seeds"] == 3
    # Each point fills seven cells, and nothing else does.
    values = wide.to_numpy(dtype=float, na_value=np.nan)
    assert np.isfinite(values).sum() == 7 * len(table)


def test_rows_are_in_the_order_of_a_paper(table: pd.DataFrame) -> None:
    wide = wide_table(table)
    assert wide[["loss", "method", "quotas"]].to_numpy().tolist() == [
        [loss, method, quotas]
        for loss in ("cdb_w", "cross_entropy")
        for method, quotas in (
            ("none", "none"),
            ("random", "none"),
            ("random", "drop"),
            ("el2n", "none"),
            ("el2n", "drop"),
        )
    ]


def test_csv_and_parquet_hold_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    csv = pd.read_csv(export_table(folder, "csv", tmp_path / "t.csv").path, keep_default_na=False)
    parquet = pd.read_parquet(export_table(folder, "parquet", tmp_path / "t.parquet").path)
    assert list(csv.columns) == list(parquet.columns)
    for name in csv.columns:
        if name in ROW:
            assert csv[name].tolist() == parquet[name].tolist()
        else:
            numbers = pd.to_numeric(csv[name], errors="coerce")
            expected = parquet[name].to_numpy(dtype=float, na_value=np.nan)
            np.testing.assert_allclose(numbers, expected, atol=5e-7)
    assert parquet["keep_0.2_n_seeds"].dropna().tolist() == [3] * 8


def test_latex_has_as_many_cells_in_every_row(table: pd.DataFrame) -> None:
    text = latex_table(table)
    assert r"\begin{tabular}{lrrrr}" in text
    rows = _rows(text)
    assert {_columns(row) for row in rows} == {5}
    assert text.count("{") == text.count("}")
    for rule in (r"\toprule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(rule) == 1
    assert text.count(r"\midrule") == 2
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in text
    assert r"\hline" not in text
    assert [cell for cell in rows[0] if cell] == [
        r"\multicolumn{2}{c}{keep 0.2}",
        r"\multicolumn{2}{c}{keep 0.5}",
    ]


def test_latex_cells_are_percentages_of_the_table(table: pd.DataFrame) -> None:
    point = table.query("method == 'el2n' and quotas == 'drop' and loss == 'cdb_w'").iloc[1]
    cells = next(row for row in _rows(latex_table(table)) if row[0] == "el2n + drop")
    assert point["keep_fraction"] == 0.5
    mean, low, high = (
        f"{100 * point[f'worst_class_accuracy{end}']:.1f}" for end in ("", "_min", "_max")
    )
    assert (
        re.sub(r"\\textbf\{([\d.]+)\}", r"\1", cells[4]) == rf"{mean} {{\scriptsize {low}--{high}}}"
    )


def test_the_best_of_each_column_is_bold_within_its_loss(table: pd.DataFrame) -> None:
    blocks = latex_table(table).split(r"\midrule")[1:]
    for block, loss in zip(blocks, ("cdb_w", "cross_entropy"), strict=True):
        assert escape(loss) in block
        pruned = table[(table["loss"] == loss) & (table["method"] != "none")]
        bold = 0
        for _, rows in pruned.groupby("keep_fraction"):
            for name in ("average_accuracy", "worst_class_accuracy"):
                texts = [f"{100 * value:.1f}" for value in rows[name]]
                best = f"{100 * rows[name].max():.1f}"
                assert rf"\textbf{{{best}}}" in block
                bold += texts.count(best)
        assert block.count(r"\textbf") == bold < len(pruned)


def test_where_all_are_equal_none_is_best(table: pd.DataFrame) -> None:
    equal = table.assign(worst_class_accuracy=0.5)
    cells = [cell for row in _rows(latex_table(equal)) for cell in row[2::2]]
    assert any("50.0" in cell for cell in cells)
    assert not [cell for cell in cells if r"\textbf" in cell]


def test_a_single_seed_has_no_range_and_an_absent_point_a_dash(tmp_path: Path) -> None:
    study = FakeStudy(seeds=(7,))
    absent = next(t for t in study.trials() if t.method == "el2n" and t.keep_fraction == 0.5)
    result = export_table(study.write(tmp_path, skip=[absent]), "latex")
    text = result.path.read_text()
    assert result.path == tmp_path / "table.tex"
    assert r"\scriptsize" not in text
    assert "mean over 1 seed;" in text
    cells = next(row for row in _rows(text) if row[0] == "el2n + none")
    assert cells[3:] == ["--", "--"]
    assert len(result.records.missing) == 1


def test_only_all_the_data(tmp_path: Path) -> None:
    study = FakeStudy(methods=())
    text = export_table(study.write(tmp_path), "latex").path.read_text()
    assert [row[0] for row in _rows(text)] == ["method + quotas", "all the data"]


def test_worst_groups_and_several_models(tmp_path: Path) -> None:
    grouped = export_table(GROUPED.write(tmp_path / "a"), "csv")
    columns = pd.read_csv(grouped.path).columns
    assert "keep_0.2_worst_group_accuracy_min" in columns
    assert not [name for name in columns if "worst_class" in name]
    transfer = export_table(TRANSFER.write(tmp_path / "b"), "latex").path.read_text()
    assert r"\emph{resnet50, cross\_entropy}" in transfer
    assert "moso + none from resnet18" in transfer


def test_names_are_set_as_they_are() -> None:
    assert escape("cdb_w(1) 50% & #1 {x}") == r"cdb\_w(1) 50\% \& \#1 \{x\}"
    assert escape("a\\b~c^d$") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\$"
    assert escape("from_method:el2n") == r"from\_method:el2n"


HOSTILE = "x\n\\input{/etc/passwd}\r\\write18{ls}\u2028\u0085\x0b\x0c^^M\\end{tabular}\0%"


def _is_ours(line: str) -> bool:
    """Whether a line of LaTeX has no command but ours, unless it is a comment."""
    ours = {"begin", "end", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn", "emph"}
    ours |= {"textbf", "scriptsize", "textbackslash", "textasciicircum", "textless"}
    commands = set(re.findall(r"\\([A-Za-z]+)", line))
    return line.startswith("%") or (commands <= ours and line.isprintable())


def test_a_data_set_stays_within_its_comment(table: pd.DataFrame) -> None:
    text = latex_table(table.assign(dataset=HOSTILE))
    assert text.encode().startswith(rb"% x\n\input{/etc/passwd}\r\write18{ls}\u2028\x85")
    assert all(map(_is_ours, text.splitlines()))
    assert len(text.splitlines()) == len(latex_table(table).splitlines())


@pytest.mark.parametrize("column", ["method", "quotas", "loss", "model", "query_model"])
@pytest.mark.parametrize("name", [HOSTILE, "[3cm] x", "* x", "a\n\nb"])
def test_a_name_stays_within_its_cell(table: pd.DataFrame, column: str, name: str) -> None:
    text = latex_table(table.assign(**{column: table[column].replace(table[column].max(), name)}))
    lines = text.splitlines()
    assert all(map(_is_ours, lines))
    assert not [line for line in lines if line.lstrip().startswith(("[", "*"))]
    assert {_columns(row) for row in _rows(text)} == {5}


def test_an_exported_file_has_a_hostile_name_once_and_readably(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, quotas=("none", HOSTILE), seeds=(0,))
    folder = study.write(tmp_path)
    shown = visible(HOSTILE)
    assert escape(shown) in export_table(folder, "latex").path.read_text(encoding="utf-8")
    for kind, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        path = export_table(folder, kind).path
        assert shown in set(read(path)["quotas"])


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = FakeStudy(methods=("random",), seeds=(0,)).write(tmp_path / "study")
    for kind in ("csv", "parquet", "latex"):
        one, two = (export_table(folder, kind, tmp_path / n).path.read_bytes() for n in "ab")
        assert one == two


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown value of --format 'tex': did you mean latex"):
        export_table(folder, "tex")
    with pytest.raises(ConfigError, match="Expected a file to write for --out, found the folder"):
        export_table(folder, "csv", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Expected a folder for results at .*file"):
        export_table(folder, "csv", tmp_path / "file" / "t.csv")
    with pytest.raises(StoreError, match=r"Expected a study\.json"):
        export_table(tmp_path, "csv")
    with pytest.raises(IncompleteStudyError):
        export_table(STUDY.write(tmp_path / "none", skip=STUDY.trials()), "csv")
    assert export_table(folder, "csv", tmp_path / "deep" / "er" / "t.csv").path.is_file()
