"""Reports from runs: what is written, where, and when it need not be written again."""

import re

import pytest

from prune_bench import cli
from prune_bench.errors import PruneBenchError
from prune_bench.report.build import has_page, make_report, write_page, write_paper
from prune_bench.report.results import load_results
from tests.report.synthetic import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "made", lost={("snip", 0.1, "original", 0)})


def test_the_page_is_one_file_that_names_no_other(run, tmp_path):
    page = write_page(make_report([run]), tmp_path).read_text()
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", page, flags=re.DOTALL)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert re.findall(r'<(?:link|script|img)[^>]*(?:src|href)="(?!data:)[^"]*"', page) == []


def test_a_page_that_tells_of_these_results_need_not_be_written_again(run, tmp_path):
    report = make_report([run])
    write_page(report, tmp_path)
    assert has_page(tmp_path, load_results(run))
    assert not has_page(tmp_path, load_results(run).assign(seed=7))
    assert not has_page(tmp_path / "elsewhere", load_results(run))


def test_a_paper_gets_markdown_figures_and_a_table(run, tmp_path):
    report = make_report([run])
    written = write_paper(report, tmp_path, latex=True)
    assert [path.name for path in written] == ["report.md", "figures", "table.tex"]
    text = (tmp_path / "report.md").read_text()
    figures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(figures) == len(report.charts)
    for figure in figures:
        drawing = (tmp_path / figure).read_text()
        assert drawing.startswith("<svg") and "var(--" not in drawing
        assert (tmp_path / figure).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert report.answers[0].headline in text
    assert r"\begin{tabular}" in (tmp_path / "table.tex").read_text()


def test_several_runs_make_one_report_with_a_part_for_each_setting(run, tmp_path):
    other = make_run(tmp_path / "other", methods=("cts",))
    (other / "experiment.yaml").write_text("name: other\nmodel: {name: wide}\n")
    report = make_report([run, other])
    assert report.title == "made + other"
    assert len(report.answers) == 2
    figures = write_paper(report, tmp_path / "out")[1]
    assert len(list(figures.glob("accuracy--*.svg"))) == 2


def test_the_command_writes_all_and_names_the_page_last(run, tmp_path, capsys):
    assert cli.main(["report", str(run), "--output", str(tmp_path / "out"), "--latex"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"wrote {tmp_path / 'out' / 'report.html'}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html",
        "report.md",
        "figures",
        "table.tex",
    }


@pytest.mark.parametrize("form", ["table", "csv", "json", "md", "latex"])
def test_a_format_is_printed_alone_and_nothing_is_written(run, capsys, form):
    before = set(run.iterdir())
    assert cli.main(["report", str(run), "--format", form]) == 0
    assert "snip" in capsys.readouterr().out
    assert set(run.iterdir()) == before


def test_a_place_that_cannot_be_written_is_one_clear_error(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["report", str(run), "--output", str(tmp_path / "file")]) == 2
    assert "name another folder with --output" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(PruneBenchError, match="not the folder of a sweep"):
        make_report([tmp_path])
