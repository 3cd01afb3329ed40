"The command line as a process: exit codes, messages, and how little it imports."

import json
import re
import subprocess
import sys
from pathlib import Path
import pytest
from counting import PVLIT, call, environment, make_repository
import pvlit


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def ended(root):
    "A finished run, with a parameter set, a parameter from the line and a folder."
    result = call(root, "run", "counting", "--params", "far", "-p", "label=no", "--out", "first")
    assert result.returncode == 0, result.stderr
    return result


def test_run_ends_with_verdict_folder_and_report(root, ended):
    assert ended.stdout.splitlines() == ["It counts to 40.", "", "run: first", "report: first/report.html"]
    record = json.loads((root / "first" / "run.json").read_text())
    assert (record["status"], record["params"]["steps"], record["params"]["rate"], record["params"]["label"]) == (
        "done",
        40,
        0.001,
        "no",
    )
    assert record["versions"]["pvlit"] and re.fullmatch("[0-9a-f]{64}", record["notebook_sha256"])
    assert "counting" in ended.stderr and "cell" in ended.stderr  # the progress bar


def test_report_is_one_page_that_fetches_nothing(root, ended):
    again = call(root, "report", "first", "--open", "false")
    assert again.returncode == 0 and again.stdout == "report: first/report.html\n"
    page = (root / "first" / "report.html").read_text()
    assert "How far does it count?" in page and "It counts to 40." in page and "attempts.txt" not in page
    assert re.findall(r"""(?:src|href|import|url)\s*[=(]\s*["']?(?:https?:)?//""", page) == []


def test_finished_run_is_never_overwritten(root, ended):
    before = {p.name: p.read_bytes() for p in (root / "first").iterdir()}
    for extra in [], ["--params", "far", "-p", "label=no"], ["-p", "steps=1"]:
        again = call(root, "run", "counting", "--out", "first", *extra)
        assert again.returncode == 2 and "never overwritten" in again.stderr
    assert {p.name: p.read_bytes() for p in (root / "first").iterdir()} == before


def test_list(root):
    assert call(root, "list").stdout.splitlines()[1].split() == "counting How far does it count? far".split()
    shown = call(root, "list", "counting").stdout
    assert (
        re.search(r"steps +int +3 +how far to count", shown)
        and "run_folder" not in shown
        and "parameter sets: far" in shown
    )


def test_status_without_runs(root):
    shown = call(root, "status")
    assert (shown.returncode, shown.stdout) == (0, "no runs yet; pvlit list shows what can be run\n")


@pytest.mark.parametrize(
    "argv, says",
    [
        (["rum"], "invalid choice: 'rum'"),
        ([], "COMMAND"),
        (["run", "countin"], "unknown experiment countin (did you mean counting?)"),
        (["run", "counting", "-p", "stpes=4"], "stpes (did you mean steps?)"),
        (["run", "counting", "-p", "steps=4.5"], "parameter steps must be int; got 4.5 (float)"),
        (["run", "counting", "-p", "wait=1"], "parameter wait must be bool; got 1 (int)"),
        (["run", "counting", "-p", "rate=null"], "parameter rate must be float; got None"),
        (["run", "counting", "-p", "steps"], "expected name=value"),
        (["run", "counting", "-p", "run_folder=x"], "set by the launcher"),
        (["run", "counting", "--params", "fat"], "(did you mean far?)"),
        (["run", "counting", "--params", "fat.yml"], "no parameter file fat.yml"),
        (["run", "counting", "--params", "list.yml"], "expected lines of name: value, got list"),
        (["run", "counting", "--params", "broken.yml"], "not YAML"),
        (["run", "counting", "--out", "settings.ini/run"], "cannot write in"),
        (["run", "counting", "--out", "nbs"], "holds files but no run"),
        (["report", "counting"], "unknown run counting"),
        (["list", "countin"], "did you mean counting?"),
        (["claims", "--chekc"], "--chekc"),
        (["evaluate", "x.pth"], "needs --recipe"),
        (["evaluate", "x.pth", "--recipe", "tsm_8f_something_v1", "--root", "nbs"], "tsm_r50_8f_something_v1"),
        (["evaluate", "x.pth", "--recipe", "tsm_r50_8f_something_v1", "--root", "nbs"], "no weights at x.pth"),
        (["clips", "frames", "nbs"], "needs --out"),
    ],
)
def test_wrong_call_exits_2_with_one_line_and_starts_nothing(root, argv, says):
    (root / "list.yml").write_text("- 1\n")
    (root / "broken.yml").write_text("a: [1\n")
    ended = call(root, *argv)
    assert (ended.returncode, ended.stdout) == (2, "") and says in ended.stderr
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr
    assert not list((root / "runs").glob("*/*"))


@pytest.mark.parametrize(
    "variable, value, says",
    [
        ("PVLIT_DEVICE", "gpu", "PVLIT_DEVICE = 'gpu' is not allowed; expected auto, cpu"),
        ("PVLIT_DEVISE", "cpu", "did you mean PVLIT_DEVICE?"),
        ("PVLIT_RUNS", "settings.ini/runs", "cannot write in"),
        ("PVLIT_RESULTS", "settings.ini/results", "cannot write in"),
    ],
)
def test_wrong_settings_exit_2(root, variable, value, says):
    ended = call(root, "run", "counting", **{variable: value})
    assert ended.returncode == 2 and says in ended.stderr and ended.stderr.count("\n") == 1


def test_run_outside_a_repository(tmp_path):
    ended = call(tmp_path, "run", "counting")
    assert ended.returncode == 2 and "work inside a clone of the repository" in ended.stderr


@pytest.mark.parametrize(
    "argv", [["--help"], *[[c, "--help"] for c in ("list", "run", "status", "report", "claims", "clips", "evaluate")]]
)
def test_help_has_examples(root, argv):
    ended = call(root, *argv)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"\n  pvlit {'' if argv[0] == '--help' else argv[0]}" in ended.stdout.partition("examples:")[2]


def test_version_and_console_script(root):
    assert call(root, "--version").stdout == f"pvlit {pvlit.__version__}\n"
    script = Path(sys.executable).with_name("pvlit")
    if not script.exists():
        pytest.skip("pvlit is not installed in this environment")
    assert subprocess.run([script, "rum"], capture_output=True, cwd=root, env=environment()).returncode == 2


def test_help_imports_nothing_heavy(root):
    code = "import sys\nfrom pvlit.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print('\\n'.join(sys.modules))"
    modules = set(
        subprocess.run([*PVLIT[:2], code], capture_output=True, text=True, cwd=root, env=environment()).stdout.split()
    )
    assert "pvlit.lab.runs" in modules
    assert not modules & {"torch", "papermill", "nbconvert", "nbformat", "IPython", "numpy", "matplotlib", "psutil"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_stops_early_is_no_error(root, unbuffered):
    ended = subprocess.run(
        ["bash", "-c", '"$@" | true; echo "${PIPESTATUS[0]}"', "-", *PVLIT, "list"],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment(PYTHONUNBUFFERED=unbuffered),
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")
