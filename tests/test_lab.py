"""The widget tutorial in JupyterLab as a reader uses it: open, run all cells, move a slider, see another picture."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from patience import patient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs/tutorials/corruption_playground.ipynb"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def lab(tmp_path):
    "JupyterLab on the loopback address with a copy of the notebook, without the settings of who runs the test."
    work, port, token = tmp_path / "work", free_port(), secrets.token_hex(8)
    work.mkdir()
    shutil.copy(NOTEBOOK, work)
    names = "JUPYTER_CONFIG JUPYTER_DATA JUPYTER_RUNTIME JUPYTERLAB_WORKSPACES JUPYTERLAB_SETTINGS".split()
    places = {name: str(tmp_path / name.lower()) for name in [*(f"{name}_DIR" for name in names), "IPYTHONDIR"]}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={work}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **places, "OMP_NUM_THREADS": "1"})
    try:

        def up():
            if server.poll() is not None:
                pytest.fail((tmp_path / "lab.log").read_text()[-2000:])
            return answers(f"http://127.0.0.1:{port}/api?token={token}")

        wait(up, "JupyterLab answers")
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?reset&token={token}"
    finally:
        server.terminate()  # the server stops its kernels; those of a killed one notice that it is gone
        try:
            server.wait(patient(30))
        except subprocess.TimeoutExpired:
            server.kill()


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=patient(5)).status == 200
    except (urllib.error.URLError, OSError):
        return False


def happens(condition, seconds):
    "Wait for `condition()`; returns what it gave, or nothing. Elements that vanish in between are asked for again."
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + patient(seconds)
    while True:
        try:
            found = condition()
        except StaleElementReferenceException:
            found = None
        if found or time.monotonic() > end:
            return found
        time.sleep(0.2)


def wait(condition, what, seconds=60):
    "Wait until `condition()` holds, or fail."
    found = happens(condition, seconds)
    if not found:
        pytest.fail(f"not after {patient(seconds):.0f} s: {what}")
    return found


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the tutorial notebook is not in this checkout")
def test_a_slider_redraws_the_film_strip(browser, lab):
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ask = browser.execute_script
    browser.execute_cdp_cmd(
        "Emulation.setFocusEmulationEnabled", dict(enabled=True)
    )  # no window has the focus when nobody looks at it
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=1400, height=1000, deviceScaleFactor=1, mobile=False)
    )
    browser.get(lab)
    kernel_idle = "return !!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')"
    wait(lambda: ask(kernel_idle), "the kernel is idle")  # running cells earlier than this loses them

    def menu(name):
        return next((m for m in browser.find_elements("css selector", ".lm-MenuBar-item") if m.text == name), None)

    def run_all():
        command = ".lm-Menu-item[data-command='runmenu:run-all']"
        ActionChains(browser).send_keys(Keys.ESCAPE).perform()  # a menu that an earlier try left open
        try:
            wait(lambda: menu("Run"), "the menu Run").click()
            wait(lambda: browser.find_elements("css selector", command), "Run All Cells")[0].click()
        except WebDriverException:
            pass  # something lay over the menu for a moment

    started = (
        """return [...document.querySelectorAll('.jp-InputPrompt')].some(p => /\\[(\\*|\\d+)\\]/.test(p.innerText))"""
    )
    for _ in range(5):  # a busy machine says that the kernel is idle before it takes cells, and loses them
        run_all()
        if happens(lambda: ask(started), 15):
            break

    slider = """return [...document.querySelectorAll('.jupyter-widgets.widget-slider')]
        .find(w => w.querySelector('.widget-label')?.innerText.trim() === 'frames')"""
    handle = wait(lambda: ask(slider), "a slider called frames").find_element("css selector", ".noUi-handle")
    pictures = "return [...document.querySelectorAll('.jp-OutputArea .jupyter-widgets img')].map(i => i.src)"
    before = wait(lambda: ask(pictures), "a picture")
    wait(lambda: ask(kernel_idle), "the kernel is idle again")
    errors = ask(
        """return [...document.querySelectorAll('.jp-RenderedText[data-mime-type$="vnd.jupyter.error"]')]
            .map(e => e.innerText)"""
    )
    assert not errors, errors

    readout = slider + "?.querySelector('.widget-readout').innerText"
    shown = ask(readout)
    ask("arguments[0].scrollIntoView({block: 'center'})", handle)
    handle.click()
    ActionChains(browser).send_keys(*[Keys.ARROW_RIGHT] * 2).perform()
    wait(lambda: ask(readout) != shown, "the slider moves")
    after = wait(lambda: (now := ask(pictures)) and now != before and now, "another picture")
    assert all(src.startswith(("data:", "blob:")) for src in after)
    drawn = """return [...document.querySelectorAll('.jp-OutputArea .jupyter-widgets img')]
        .every(i => i.complete && i.naturalWidth > 50)"""
    wait(lambda: ask(drawn), "the picture is drawn")
