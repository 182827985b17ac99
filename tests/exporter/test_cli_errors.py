"""A user's mistakes: each is one clear line and exit code 2, without a traceback, and nothing is written."""

import subprocess
import sys

import pytest

from tests.exporter.mistakes import EXPORT, refused, run

BOTH = ("--method", "fastervlm", "--keep")
COMMAND = (sys.executable, "-P", "-c", "from exporter.cli import main; main()")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, which stays empty."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", ["0", "-1", "-0", "0.0", "0%", "-5%"])
def test_a_budget_of_nothing(keep):
    refused(
        "--method", "fastervlm", f"--keep={keep}", says=f"--keep {keep}: nothing would be kept; give a count from 1"
    )


@pytest.mark.parametrize("keep", ["abc", "", "1e3", "nan", "inf", "6 4", "64 ", "%", ".", "1/2", "٦٤", "9" * 20])
def test_a_budget_that_is_no_number(keep):
    refused(*BOTH, keep, says=f"--keep '{keep}': not a number; give a count (64), a ratio (0.11) or a percentage")


@pytest.mark.parametrize(
    ("keep", "model", "patches"),
    [
        ("145", "demo", 144),
        ("101%", "demo", 144),
        ("1.5", "demo", 144),
        ("1.0000001", "demo", 144),
        ("577", "demo:llava-1.5", 576),
    ],
)
def test_a_budget_that_is_too_large(keep, model, patches):
    refused(*BOTH, keep, "--model", model, says=f"--keep {keep}: more than there is; an image has {patches} patches")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "fastervml", "--keep", "64"], "did you mean fastervlm"),
        (["--method", "zzz", "--keep", "64"], "there are: a2sf, aim, atp-llava"),
        (["--method", "", "--keep", "64"], "there are: a2sf, aim, atp-llava"),
        (["--method", "../x", "--keep", "64"], "no such method"),
        (["--method", "\x1b[31m\nx", "--keep", "64"], "--method ?[31m x: no such method"),
        (["--method", "\udcff", "--keep", "64"], "--method ?: no such method"),
        (["--method", "[red]x", "--keep", "64"], "--method [red]x: no such method"),
        (["--method", "fastervlm"], "give a budget with --keep, such as --keep 64"),
        (["--keep", "64"], "--method is missing"),
        (["--force"], "--method is missing"),
        (["--method", "none", "--keep", "64"], "--method none keeps every patch: leave --keep out"),
        (["--method", "none", "--keep", ""], "leave --keep out"),
        (["methods", "nope"], "no such method"),
    ],
)
def test_methods(words, says):
    refused(*words, says=says)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/nowhere/x", "'/nowhere/x' is no directory here; give a checkpoint directory or a hub id 'org/name'"),
        ("", "'' is no directory here"),
        ("/dev/null", "is no directory here"),
        (__file__, "is a file: give the directory that holds config.json"),
        ("a" * 5000, "is no directory here: File name too long"),
        ("~nobody-of-that-name/x", "is no directory here"),
        ("demo:nope", "there is no built-in model 'demo:nope': use one of demo, demo:llava-1.5"),
        ("..", "is not a checkpoint: it has no config.json"),
    ],
)
def test_models(model, says):
    refused(*EXPORT, "--model", model, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--target", "cuda"], "unknown target 'cuda': choose from ort-cpu, ov-cpu, trt, trt-rtx, or auto"),
        (["--target", ""], "unknown target ''"),
        (["--target", "../x"], "unknown target '../x'"),
        (["--target", "trt-rtx:sm99"], "unknown GPU 'sm99'; known are sm75"),
        (["--target", "trt-rtx:"], "unknown GPU ''"),
        (["--target", "trt-rtx:sm86,sm86"], "a GPU is named twice"),
        (["--target", "ort-cpu:fast"], "target ort-cpu takes no options: drop ':fast'"),
        (["--target", "ort-cpu", "--target", "ort-cpu"], "target named twice: ort-cpu"),
        (["--target", "ort-cpu", "--dtype", "bf16"], "--dtype bf16: ort-cpu computes in fp32 or fp16"),
        (["--dtype", "int3"], "'int3' is not one of 'fp32', 'fp16', 'bf16'. (see tp-export --help)"),
        (["--gpu", "abacus"], "unknown GPU 'abacus': use one of h200"),
        (["--gpu", ""], "unknown GPU ''"),
    ],
)
def test_targets(words, says):
    refused(*BOTH, "64", *words, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-batch", "0"], "--max-batch 0: must be at least 1"),
        (["--max-batch", "-1"], "--max-batch -1: must be at least 1"),
        (["--max-batch", "1" + "0" * 30], "at most 4194303 where --max-length is 512"),
        (["--max-batch", "x"], "'x' is not a valid integer"),
        (["--max-length", "0"], "--max-length 0: must lie between"),
        (["--max-length", "5"], "--max-length 5: must lie between"),
        (["--max-length", "-3"], "--max-length -3: must lie between"),
        (["--max-length", "1000000000"], "(pictures and a question) and the model's 512"),
        (["--images", "0"], "--images 0: must be at least 1"),
        (["--images", "1000000"], "--images 1000000: pictures and a question take 64000"),
        (["--param", "nonsense"], "--param nonsense: write it as NAME=VALUE"),
        (["--param", "=1"], "--param =1: write it as NAME=VALUE"),
        (["--param", "a=b"], "--param a: fastervlm has no such parameter; it has: none"),
        (["--colour"], "No such option '--colour'"),
        (["stray"], "No such command 'stray'"),
        (["chek", "x"], "Did you mean 'check'?"),
        (["check", "x"], "--method belongs to an export: write the options of check behind it"),
    ],
)
def test_options(words, says):
    refused(*EXPORT, *words, says=says)


@pytest.mark.parametrize("command", ["check", "run", "inspect"])
def test_what_is_no_bundle(command):
    for path in ("/nowhere", "/dev/null", __file__, ".."):
        refused(command, path, says=f"{path} is not a bundle: it has no bundle.json")
    refused(command, "a" * 5000, says="File name too long")
    refused(command, says=f"Missing argument 'BUNDLE'. (see tp-export {command} --help)")


def test_an_error_of_ours_is_one_line_too(monkeypatch):
    monkeypatch.setattr("exporter.catalogue.listing", lambda: {}["gone"])
    code, _, said = run("methods")
    assert (code, said) == (1, "tp-export: internal error: KeyError: 'gone'; --debug shows where\n")
    _, _, said = run("--debug", "methods")
    assert "Traceback" in said


@pytest.mark.parametrize("words", [["--method", "zzz", "--keep", "3"], ["--zzz"], ["run", b"a\xff"]])
def test_the_real_command_says_nothing_else(words):
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("tp-export: ")
