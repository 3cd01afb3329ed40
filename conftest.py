"""What every test run shares: stored outputs that nbval can compare, and a browser that stays on this machine."""

import os
import shutil

import pytest

CHROMIUM = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1400,1000"
).split()


def pytest_addoption(parser):
    parser.addoption(
        "--browser",
        metavar="PATH",
        help="Chromium for the tests of the site and of JupyterLab (default: the one found on PATH)",
    )


def pytest_collection_modifyitems(items):
    "Number cells that `nbdev-clean` left uncounted: to nbval, outputs without a count are outputs of a cell never run."
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is not None and cell.get("outputs") and cell.get("execution_count") is None:
            cell["execution_count"] = 1


def find_browser(wanted):
    "`(chromium, chromedriver)`, or the reason why there is no browser."
    names = [wanted] if wanted else CHROMIUM
    browser = next(filter(None, map(shutil.which, names)), None)
    if not browser:
        return (
            None,
            f"no browser ({', '.join(names)}): `apt-get install chromium chromium-driver`, or pytest --browser PATH",
        )
    driver = shutil.which("chromedriver")
    if not driver:
        return None, "no chromedriver: `apt-get install chromium-driver`"
    return (browser, driver), ""


@pytest.fixture(scope="session")
def browser(request, tmp_path_factory):
    "A headless Chromium that resolves no name, so that nothing it opens can leave this machine."
    found, reason = find_browser(request.config.getoption("--browser"))
    if not found:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"REQUIRE_BROWSER=1 and {reason}", pytrace=False)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for flag in [*FLAGS, rules, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    driver.set_page_load_timeout(600)
    yield driver
    driver.quit()
