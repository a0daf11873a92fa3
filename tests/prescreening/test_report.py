"""Every form of the report says the same, and none lets what a user has named through."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ntps_lightning.figures.layers import Curve, Panel, layer_figure
from ntps_lightning.prescreening.panels import panels
from ntps_lightning.prescreening.ranking import layer_to_read
from ntps_lightning.prescreening.report import terminal, write_report
from ntps_lightning.prescreening.report.answers_json import as_json
from ntps_lightning.prescreening.report.layers_csv import as_csv
from ntps_lightning.prescreening.report.markdown import as_markdown
from ntps_lightning.prescreening.report.page import page_of
from ntps_lightning.prescreening.report.page_html import as_html
from ntps_lightning.prescreening.report.svg import line_chart, ticks
from ntps_lightning.prescreening.report.words import listed, number, spans
from ntps_lightning.prescreening.result import Prescreen
from tests.support.measured import measured

EVIL = '<script>alert("1")</script>&amp; | **b** [x](http://evil.example) \x1b[31m'
VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def found():
    rows = [measured(model, data, seed=i, remarks=("2 copies",)) for i, model in enumerate("ab") for data in ("x", "y")]
    return Prescreen(tuple(rows), {"limit": 150, "labels": None}, {"torch": "2.13.0"}, ("not measured: c",))


@pytest.fixture(scope="module")
def evil():
    layer = measured().layers[0]
    row = measured(EVIL, EVIL, remarks=(EVIL,))
    row = replace(row, layers=(replace(layer, remarks=(EVIL,)), *row.layers[1:]))
    other = replace(measured("other", data="ab"), data=EVIL)
    return Prescreen((row, other), {EVIL: EVIL}, {EVIL: EVIL})


class Reader(HTMLParser):
    """Fails where an element is not closed in its order; keeps text and attributes."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.elements = [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def numbers_of(result):
    """Each number with an error as it is shown."""
    for each in result.measured:
        for layer in each.layers:
            yield number((layer.probe_r2.value, layer.probe_r2.se))
            if layer.accuracy is not None:
                yield number(layer.accuracy)
            yield from (number(layer.captured_r2), number(layer.principal_r2))
            yield from (f"{layer.score:.4f}", f"{layer.null:.4f}", f"{layer.lift:.4f}", f"{layer.rankme:.1f}")
        best = layer_to_read(each)
        yield from (number(value) for value in best.curve.values())
        yield from (number(value) for value in best.expected.values())


@pytest.mark.parametrize("classes", [True, False])
def test_the_page_is_well_formed_and_has_every_number(found, classes):
    result = found if classes else Prescreen((measured(classes=False),), {}, {})
    text = " ".join(read(as_html(result)).text)
    assert not [each for each in numbers_of(result) if each not in text]
    page = page_of(result)
    assert set(result.remarks) <= set(page.remarks)
    for said in (*page.answers, *page.remarks, *page.caveats):
        assert said in text


def test_accuracy_of_what_reads_nothing_is_a_dash(found):
    (noisy, *_), page = found.measured[0].layers, page_of(found)
    assert noisy.reads_nothing
    assert page.layers[0].rows[0][1] == "-"
    assert page.layers[0].rows[1][1] == number(found.measured[0].layers[1].accuracy)
    csv_row = next(csv.DictReader(io.StringIO(as_csv(found))))
    assert (csv_row["probe_accuracy"], csv_row["probe_accuracy_se"]) == ("", "")
    assert number((noisy.probe_accuracy.value, noisy.probe_accuracy.se)) not in as_html(found)


@pytest.mark.compatibility("Prescreening", "report.html", "well formed, no script, nothing asked of a network")
def test_the_page_asks_for_nothing(found):
    html = as_html(found)
    reader = read(html)
    assert not {tag for tag, _ in reader.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    names = {name for _, attributes in reader.elements for name in attributes}
    assert not names & {"src", "href", "srcset", "action", "style", "xlink:href"}
    assert not [name for name in names if name.startswith("on")]
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|//", style)
    assert "prefers-color-scheme: dark" in style


def test_what_users_name_is_text_alone(evil):
    reader = read(as_html(evil))
    assert not [tag for tag, _ in reader.elements if tag == "script"]
    assert EVIL in " ".join(reader.text)
    markdown = as_markdown(page_of(evil))
    assert "<script" not in markdown.replace("\\<script", "")
    assert "**b**" not in markdown
    assert not re.search(r"(?<!\\)\]\(", markdown)
    assert "\x1b" not in terminal.as_text(page_of(evil))


def test_markdown_tables_have_as_many_cells_as_columns(evil):
    blocks = [block.splitlines() for block in as_markdown(page_of(evil)).split("\n\n") if block.startswith("|")]
    page = page_of(evil)
    assert len(blocks) == len([page.summary, *page.rankings, *page.layers, page.settings, page.passes, page.versions])
    for head, rule, *rows in blocks:
        assert rule.startswith("|---")
        assert rows
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)}) == 1


def test_csv_has_all_digits(found):
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    wanted = [(each, layer) for each in found.measured for layer in each.layers]
    assert len(rows) == len(wanted)
    for row, (each, layer) in zip(rows, wanted, strict=True):
        assert (row["model"], row["data"], int(row["layer"])) == (each.model, each.data, layer.layer)
        assert float(row["probe_r2"]) == layer.probe_r2.value
        assert float(row["captured_r2_se"]) == layer.captured_r2[1]


def test_json_has_the_answers(found):
    facts = json.loads(as_json(found))
    assert [each["layer"] for each in facts["best_layers"]] == [1] * 4
    ranking = found.rank_models("x")
    (said,) = [each for each in facts["models"] if each["data"] == "x"]
    assert said["best"] == ranking.ranked[0].name
    assert [each["value"] for each in said["ranked"]] == [each.value for each in ranking.ranked]
    assert [each["ranks"] for each in said["ranked"]] == [list(each.ranks) for each in ranking.ranked]
    assert (said["labels_to_settle"], said["settled"]) == (ranking.labels_to_settle, ranking.settled)
    assert facts["answers"] == list(page_of(found).answers)


def test_the_terminal_has_answers_and_rankings(found, capsys):
    terminal.show(page_of(found))
    text = capsys.readouterr().out
    joined = " ".join(text.split())
    page = page_of(found)
    for said in (*page.answers, *page.remarks, *page.caveats):
        assert " ".join(said.split()) in joined
    for table in (page.summary, *page.rankings):
        assert all(cell in text for row in table.rows for cell in row)


def test_a_real_terminal_gets_the_same(found, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    terminal.show(page_of(found))
    text = capsys.readouterr().out
    page = page_of(found)
    assert "━" in text
    assert all(cell in text for table in (page.summary, *page.rankings) for row in table.rows for cell in row)


def test_answers_say_what_is_tied_and_what_is_not():
    tied = Prescreen((measured(noises=(1.0, 1.0, 9.0), n=80),), {}, {})
    ranking = tied.rank_layers()
    assert [each.layer for each in ranking.ties]
    (said,) = page_of(tied).answers
    assert f"read layer {ranking.ranked[0].layer} of model" in said
    assert f"{spans([each.layer for each in ranking.ties])} may be as good" in said
    assert f"would take about {ranking.labels_to_settle:,} labels" in said
    clear = Prescreen((measured(noises=(30.0, 0.1), n=300),), {}, {})
    (said,) = page_of(clear).answers
    assert "Of its 2 layers no other may be as good." in said
    assert "would take" not in said


def test_remarks_are_said_once_and_those_of_layers_in_their_tables():
    rows = [measured(data=data, remarks=("cut",)) for data in ("x", "y")]
    layers = rows[0].layers
    noted = [
        replace(layer, remarks=("everywhere", *said))
        for layer, said in zip(layers, [["mine"], ["read"], []], strict=True)
    ]
    result = Prescreen((replace(rows[0], layers=tuple(noted)), rows[1]), {}, {})
    page = page_of(result)
    assert page.remarks[:3] == ("x and y: cut", "x: everywhere", "x (layer 1): read")
    assert "mine" not in " ".join(page.remarks)
    assert [row[-1] for row in page.layers[0].rows] == ["everywhere; mine", "everywhere; read", "everywhere"]


def test_passes_are_shown_with_what_they_took(found):
    (markdown, html), row = (as_markdown(page_of(found)), as_html(found)), found.measured[1]
    assert page_of(found).passes.rows[1] == (row.model, row.data, "150", "150", "12", "1.5")
    assert "| a | y | 150 | 150 | 12 | 1.5 |" in markdown
    assert "<td>a</td><td>y</td><td>150</td><td>150</td><td>12</td><td>1.5</td>" in html


def test_accuracy_stands_beside_r2_of_models_and_not_of_data_sets(found):
    models, _, data, _ = page_of(found).rankings
    assert models.columns[3:5] == ("R²", "accuracy")
    assert models.rows[0][4] == number(found.rank_models("x").ranked[0].accuracy)
    assert "accuracy" not in data.columns


def test_what_lora_gains_is_not_foretold(found):
    for text in (as_html(found), as_markdown(page_of(found)), terminal.as_text(page_of(found)), as_json(found)):
        assert "Nothing here foretells what LoRA gains" in " ".join(text.split())


def test_a_folder_has_all_forms_the_same_each_time(found, tmp_path):
    page = write_report(found, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    files = {file.name: file.read_bytes() for file in page.parent.iterdir()}
    assert set(files) == {"report.html", "report.md", "layers.csv", "result.json"}
    write_report(Prescreen.load(page.parent / "result.json"), page.parent)
    assert {file.name: file.read_bytes() for file in page.parent.iterdir()} == files


@pytest.mark.parametrize(
    ("layers", "said"),
    [([4], "4"), ([1, 2], "1 and 2"), ([1, 2, 3, 7], "1 to 3 and 7"), ([9, 5, 4, 0], "0, 4, 5 and 9")],
)
def test_layers_are_said_as_ranges(layers, said):
    assert spans(layers) == said


def test_names_are_listed():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.013, 0.31), (0.5, 0.5), (0.001, 0.0012), (0, 30)])
def test_ticks_are_few_and_hold_the_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8


def test_what_to_expect_is_said_with_the_labels_it_takes():
    result = Prescreen((measured(),), {}, {})
    (said,), page = page_of(result).answers, page_of(result)
    wanted = f"with 300 labels {number(layer_to_read(result.measured[0]).expected[300])}"
    assert page.summary.rows[0][page.summary.columns.index("with more labels")] == wanted
    assert f"Expected accuracy {wanted}, twice those at hand." in said


def test_a_report_that_cannot_be_written_leaves_the_one_before(found, tmp_path, monkeypatch):
    def full(*names):
        raise OSError(28, "No space left on device")

    write_report(found, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr("ntps_lightning.prescreening.whole_file.os.replace", full)
    with pytest.raises(OSError, match=r"No space .*report\.html'$"):
        write_report(Prescreen((measured("other"),), {}, {}), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_of_several_models_each_curve_has_its_models_name_and_colour_where_others_failed():
    result = Prescreen((measured("a"), measured("b"), measured("b", data="other")), {}, {})
    both, alone = panels(result.measured)
    assert [(each.label, each.color) for each in both.curves] == [("a", 0), ("b", 1)]
    assert [(each.label, each.color) for each in alone.curves] == [("b", 1)]
    assert as_html(result).count("b, layer 1") > 1


def test_the_seventh_model_is_told_from_the_first():
    curves = [Curve(f"run {i}", {0: (0.1, 0.01), 1: (0.2, 0.01)}, i) for i in range(7)]
    svg = line_chart("x", curves, "layer", "R²")
    assert svg.count('class="line c0"') == svg.count('class="line c0 dotted"') == 1
    assert svg.count('class="key c0 dotted"') == 1
    (axis,) = layer_figure([Panel("x", curves)]).axes
    assert [line.get_linestyle() for line in axis.lines] == ["-"] * 6 + [":"]
