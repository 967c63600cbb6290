"""The page in a real browser: it draws, asks nobody for anything, filters, and takes no name for markup."""

import re
import shutil

import pytest

from prune_bench.report.build import make_report, write_page
from tests.report.synthetic import make_run

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<script>alert(1)</script>"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("runs") / "a & <i>b",
        methods=("snip", "grasp", EVIL),
        lost={("grasp", 0.05, "original", 1)},
    )
    return write_page(make_report([folder]), folder)


@pytest.fixture
def open_page(browser):
    """Opens a page from disk and fails on any word on the console, dialog or request."""
    contexts, heard = [], []

    def open_page(path, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-seconds]", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture
def page(open_page, written):
    return open_page(written, viewport=DESKTOP)


def drawn(page):
    return page.eval_on_selector_all(
        "section.chart:not([hidden]) svg", "all => all.map(e => e.closest('section').id)"
    )


def rows(page):
    return page.locator("#summary tbody tr:visible").count()


def pick(page, name, value, on=False):
    before = page.evaluate("document.documentElement.dataset.drawn")
    page.locator(f"input[name={name}]").and_(page.locator(f"[value='{value}']")).set_checked(on)
    page.wait_for_function("before => document.documentElement.dataset.drawn !== before", arg=before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_chart_is_drawn_and_nothing_sticks_out(open_page, written, viewport, scheme):
    page = open_page(written, viewport=viewport, color_scheme=scheme)
    assert drawn(page) == [
        "accuracy", "cost_seconds", "cost_epochs", "variants", "losses", "pairs", "effective", "layers",
        "curves_train_loss", "curves_validation_accuracy",
    ]  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator("path[aria-roledescription=point]").count() > 20


def test_the_answer_comes_first_and_names_the_winner_at_99_percent(page):
    first = page.locator("main > section").first
    assert first.locator("h2").inner_text() == "The answer"
    assert first.locator(".headline").inner_text().startswith("At 99 % sparsity snip is ahead with ")


def test_a_name_is_never_markup(page):
    assert page.locator("h1").inner_text() == "a & <i>b"
    assert page.locator("#summary th[scope=row]", has_text=EVIL).count() == 3
    assert page.locator("svg text", has_text=EVIL).count() > 0
    assert "<b>out</b> of luck" in page.inner_text("section[aria-labelledby=failures-title]")


def test_filters_take_methods_and_densities_out_of_tables_and_charts(page):
    assert rows(page) == 1 + 3 * 3
    points = page.locator("#accuracy path[aria-roledescription=point]").count()
    pick(page, "method", "grasp")
    assert rows(page) == 1 + 2 * 3
    assert page.locator("#accuracy path[aria-roledescription=point]").count() == points - 3 - 8
    assert "grasp" not in page.locator("#layers svg").text_content()
    pick(page, "density", "0.05")
    assert rows(page) == 1 + 2 * 2
    pick(page, "method", "grasp", on=True)
    assert rows(page) == 1 + 3 * 2


def test_a_variant_that_is_taken_out_leaves_table_and_checks(page):
    assert page.locator("#summary th", has_text="layer shuffle").is_visible()
    pick(page, "variant", "layer_shuffle")
    assert page.locator("#summary th", has_text="layer shuffle").is_hidden()
    assert "losses" not in drawn(page)


def test_charts_of_one_density_follow_the_choice(page):
    assert "density 0.01" in page.locator("#layers h2").inner_text()
    page.select_option("#density", "0.1")
    page.wait_for_function("document.querySelector('#layers .at').textContent.includes('0.1')")
    page.wait_for_function("[...document.querySelectorAll('#layers svg text')].some(e => e.textContent === '10')")


def test_show_all_puts_everything_back(page):
    pick(page, "method", "snip")
    page.click("button[type=reset]")
    page.wait_for_function("document.querySelectorAll('#summary tbody tr:not([hidden])').length === 10")


def test_each_chart_can_be_read_as_a_table(page):
    page.locator("#accuracy details.data summary").click()
    table = page.locator("#accuracy details.data table")
    table.wait_for()
    assert table.locator("tbody tr").count() == 9
    assert "accuracy" in table.locator("thead").inner_text()


def test_hovering_a_mean_tells_every_seed(page):
    page.locator("#accuracy path[aria-roledescription=point][aria-label*='each seed']").last.hover(force=True)
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert re.search(r"seed 0: \d+\.\d\d, seed 1: \d+\.\d\d, seed 2: \d+\.\d\d", tip.inner_text())


def test_the_keyboard_reaches_the_answer_and_the_filters(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    page.locator("input[name=method]").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelectorAll('#summary tbody tr:not([hidden])').length === 7")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page, written, scheme):
    found = axe.Axe().run(open_page(written, viewport=DESKTOP, color_scheme=scheme)).response["violations"]
    serious = {fault["id"]: [node["html"] for node in fault["nodes"]][:2] for fault in found
               if fault["impact"] in ("serious", "critical")}  # fmt: skip
    assert serious == {}


def test_print_shows_all_tables_and_no_filters(page):
    page.emulate_media(media="print")
    assert page.locator("#filters").is_hidden()
    assert page.locator("#summary").is_visible()


@pytest.mark.parametrize(
    "shape",
    [
        {"seeds": 1},
        {"densities": (0.05,), "methods": ("snip",), "variants": ("original",), "dense": False},
        {"lost": {(m, d, v, s) for m in ("snip",) for d in (0.1, 0.01) for v in ("original",) for s in range(3)},
         "methods": ("snip",), "densities": (0.1, 0.01), "variants": ("original",)},
        {"accuracy": lambda cell: 0.1},
    ],
    ids=["one seed", "one ticket", "nothing but failures", "all at chance"],
)  # fmt: skip
def test_poor_runs_have_a_page_too(open_page, tmp_path, shape):
    folder = make_run(tmp_path / "poor", **shape)
    open_page(write_page(make_report([folder]), folder), viewport=DESKTOP)


@pytest.mark.slow
def test_ten_thousand_cells_make_a_page_that_is_small_and_drawn_soon(open_page, tmp_path, record_property):
    folder = make_run(
        tmp_path / "large", methods=[f"method_{number}" for number in range(8)], seeds=20, epochs=160,
        densities=[0.8**power for power in range(2, 34, 2)],
        variants=("original", "layer_shuffle", "reinit", "invert"),
    )  # fmt: skip
    report = make_report([folder])
    assert len(report.results) == 20 + 8 * 16 * 4 * 20
    path = write_page(report, folder)
    record_property("bytes", path.stat().st_size)
    assert path.stat().st_size < 11e6
    page = open_page(path, viewport=DESKTOP)
    record_property("seconds", page.evaluate("document.documentElement.dataset.seconds"))
    assert len(drawn(page)) == 10
