"""``report.html``: one file that holds the whole comparison."""

from prune_bench.report.page.page import Report as Report
from prune_bench.report.page.page import render_page as render_page
