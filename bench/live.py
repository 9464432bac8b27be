"""What somebody costs who watches Event Logs live while events come in all the time: whether their
browser stays smooth, and how much of the server is theirs.
"""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from playwright.sync_api import Page, sync_playwright

from bench.costs import cpu_seconds
from bench.endpoint import endpoint
from bench.product import Bench, commit_steadily, signed_in
from bench.results import Figure

_RATE: Final = 500
_SECONDS: Final = 20
_FLAGS: Final = ["--headless", "--no-sandbox", "--disable-gpu"]
_NEWEST: Final = "document.querySelector('#event-rows .event').id"


def measure_live(bench: Bench, _events: int) -> list[Figure]:
    """Commits at a steady rate with nobody looking, then with one page of the log open."""
    with endpoint(bench.folder, timed=False) as (url, _), sync_playwright() as playwright:
        bench.configure({"url": url})
        address = f"{bench.stack.url}/projects/bench/events/"
        session = signed_in(bench.stack.url).cookies["sessionid"]
        browser = playwright.chromium.launch(executable_path=_chromium(), args=_FLAGS)
        alone = _web_seconds_during(bench, None)
        context = browser.new_context()
        context.add_cookies([{"name": "sessionid", "value": session, "url": bench.stack.url}])
        page = context.new_page()
        page.goto(address)
        before = page.evaluate(_NEWEST)
        browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
        watched = _web_seconds_during(bench, page)
        by_clock_ms, by_processor_ms = _longest_task_ms(browser.stop_tracing())
        if page.evaluate(_NEWEST) == before:
            raise RuntimeError("no event came in while the log was watched")
        browser.close()
    name = f"Event Logs live at {_RATE} events/s"
    share = (watched - alone) / _SECONDS * 100
    return [
        Figure(
            f"{name}, longest task of the browser",
            by_clock_ms,
            "ms",
            "≤ 200",
            note=f"the longest by processor time took {by_processor_ms:.0f} ms of it",
        ),
        Figure(f"{name}, of the server for a viewer", share, "% of a core", "≤ 5"),
    ]


def _longest_task_ms(trace: bytes) -> tuple[float, float]:
    """The longest task of the page's main thread, by the clock and by its processor time; the
    second says what it would be on a machine with nothing else to do."""
    events = json.loads(trace)["traceEvents"]
    threads = {
        (each["pid"], each["tid"]): each["args"]["name"]
        for each in events
        if each.get("name") == "thread_name"
    }
    tasks = [
        each
        for each in events
        if each.get("name", "").endswith("RunTask")
        and threads.get((each["pid"], each["tid"])) == "CrRendererMain"
    ]
    by_clock, by_processor = (
        max((each.get(length, 0) for each in tasks), default=0) / 1000 for length in ("dur", "tdur")
    )
    return by_clock, by_processor


def _chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("the benchmark `live` needs Chromium (apt-get install chromium)")
    return path


def _web_seconds_during(bench: Bench, page: Page | None) -> float:
    """What `web`, and Postgres for it, spend while events come in; `page` is left to itself."""
    before = _web_seconds(bench)
    with ThreadPoolExecutor(1) as pool:
        traffic = pool.submit(commit_steadily, bench, _RATE, _RATE * _SECONDS)
        while not traffic.done():
            # Playwright's page lives while its loop runs.
            page.wait_for_timeout(200) if page else time.sleep(0.2)
        traffic.result()
    return _web_seconds(bench) - before


def _web_seconds(bench: Bench) -> float:
    spent = cpu_seconds(bench.stack, bench.postgres, bench.redis)
    return spent["web"] + spent["Postgres for web"]
