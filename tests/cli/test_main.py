"""The command line: JSON alone on stdout, errors of ours in one line, exit status 1."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from tests import plain_process
from vsink_interp.cli import figures
from vsink_interp.cli.main import app
from vsink_interp.small import packages, scenes


@pytest.fixture
def toy(lmm):
    """One toy LMM for all commands."""
    return lmm


@pytest.fixture
def vsink(opened):
    del opened

    def call(*words, status=0):
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == status, done.output
        return done

    return call


def test_generate(vsink, toy, opened):
    found = json.loads(vsink("generate", "--seed", "3", "--max-new-tokens", "7", "--json").stdout)
    scene = vi.toy.scene(3)
    run = toy.generate(scene.image, "describe the image", max_new_tokens=7)
    assert (found["answer"], found["tokens"]) == (run.text, str(run.layout))
    assert opened == ["toy"]


def test_generate_reads_an_image_and_a_prompt(vsink, toy, tmp_path):
    image = vi.toy.scene(9).image
    image.save(tmp_path / "mine.png")
    words = ("generate", "--image", str(tmp_path / "mine.png"), "--prompt", "how many?", "--json")
    found = json.loads(vsink(*words, "--max-new-tokens", "5").stdout)
    assert found["answer"] == toy.generate(image, "how many?", max_new_tokens=5).text


def test_detect(vsink, toy):
    found = json.loads(vsink("detect", "--seed", "2", "--json").stdout)
    assert found["sink_dims"] == list(toy.sinks.dims)
    probe = vi.probes.SinkValue("image")
    phi = toy.run(vi.toy.scene(2).image, "describe the image", probe)[probe].values[:, 0]
    expected = {
        str(layer): (row >= toy.sinks.tau).nonzero().flatten().tolist()
        for layer, row in enumerate(phi)
    }
    assert any(expected.values())
    assert found["visual_sinks"] == expected
    assert found["image_size"] == [64, 64]
    for layer, tokens in expected.items():  # 8 x 8 patches of 8 pixels, in raster order
        squares = [[t % 8 * 8, t // 8 * 8, t % 8 * 8 + 8, t // 8 * 8 + 8] for t in tokens]
        assert found["visual_sink_pixels"][layer] == squares


def test_pixels_are_those_of_an_image_that_is_not_square(vsink, toy, tmp_path):
    """A wide image is scaled to a square: a patch of 8 pixels covers 16 x 8 of the original."""
    vi.toy.scene(2).image.resize((128, 64)).save(tmp_path / "wide.png")
    found = json.loads(vsink("detect", "--image", str(tmp_path / "wide.png"), "--json").stdout)
    assert found["image_size"] == [128, 64]
    boxes = [box for boxes in found["visual_sink_pixels"].values() for box in boxes]
    span = toy.encode(str(tmp_path / "wide.png"), "what?").layout.images[0][0]
    tokens = [t for tokens in found["visual_sinks"].values() for t in tokens]
    assert boxes
    assert boxes == [[round(edge, 1) for edge in span.patch_box(t)] for t in tokens]


@pytest.mark.parametrize("command", ["var", "knockout"])
def test_by_default_something_changes(vsink, command):
    assert json.loads(vsink(command, "--json").stdout)["changed"]


def test_attend_draws_the_words(vsink, toy, tmp_path):
    image = tmp_path / "mine.png"
    vi.toy.scene(3).image.save(image)
    out = tmp_path / "maps.png"
    answer = toy.generate(str(image), "describe the image", max_new_tokens=6).text
    word = answer.split()[1]
    words = ("attend", str(image), "describe the image", "--word", word, "--out", str(out))
    found = json.loads(vsink(*words, "--max-new-tokens", "6", "--json").stdout)
    assert found["answer"] == answer
    assert word in found["words"]
    assert out.read_bytes().startswith(b"\x89PNG")
    one = out.stat().st_size
    vsink("attend", str(image), "describe the image", "--out", str(out), "--max-new-tokens", "6")
    assert out.stat().st_size > one, "all words take more room than one"
    missing = vsink("attend", str(image), "what?", "--word", "zebra", status=1)
    assert "zebra" in missing.stderr
    assert vsink("attend", "--out", str(tmp_path / "maps.doc"), status=1).stdout == ""


def test_var_and_knockout_compare_two_answers(vsink, toy):
    image = vi.toy.scene(0).image
    flow = "image -> query generated"
    words = ("knockout", flow, "--layers", "2:", "--max-new-tokens", "6", "--json")
    found = json.loads(vsink(*words).stdout)
    cut = toy.generate(image, "describe the image", vi.Knockout(flow, "2:"), max_new_tokens=6).text
    assert found["edited_answer"] == cut
    assert found["changed"] == (found["answer"] != cut)
    words = ("var", "--seed", "0", "--p", "1", "--rho", "0", "--mode", "released-code")
    edit = vi.VAR(p=1.0, rho=0.0, mode="released-code")
    text = toy.generate(image, "describe the image", edit, max_new_tokens=6).text
    assert (
        json.loads(vsink(*words, "--max-new-tokens", "6", "--json").stdout)["edited_answer"] == text
    )


def test_a_sweep_and_its_log(vsink, tmp_path):
    log = tmp_path / "log.jsonl"
    words = ("knockout", "image -> query", "--scenes", "2", "--log", str(log), "--json")
    first, again = (json.loads(vsink(*words).stdout) for _ in range(2))
    assert first == again
    assert first["from_layer"] == list(range(8))
    assert len(log.read_text().splitlines()) == 10


def test_words_for_people(vsink):
    shown = vsink("generate", "--max-new-tokens", "3").stdout
    assert "answer" in shown
    assert "image[8x8=64]" in shown


def test_demo_and_report_write_a_page(vsink, tmp_path, monkeypatch):
    """What is on the page, tests/plot/test_report.py looks at."""

    def render(study, *, watch):
        watch("looking", 0.5)
        return f"{study.truth}|{study.prompt}|{len(study.cases)}|{study.max_new_tokens}"

    monkeypatch.setattr(vi.plot, "report", render)
    out = tmp_path / "demo.html"
    done = vsink("demo", "--out", str(out), "--scenes", "2", "--seed", "4", "--no-small")
    assert out.read_text() == f"{vi.toy.scene(4).caption}|describe the image|2|40"
    assert str(out) in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["demo.html"]
    vi.toy.scene(9).image.save(tmp_path / "mine.png")
    words = (
        "--image",
        str(tmp_path / "mine.png"),
        "--prompt",
        "how many?",
        "--max-new-tokens",
        "9",
    )
    vsink("report", *words, "--out", str(out))
    assert out.read_text() == "|how many?|1|9"


def test_the_demo_is_on_the_small_lmm_too_where_it_is_installed(vsink, tmp_path, monkeypatch):
    """Beside that on the toy, over a few scenes; elsewhere the command that installs it is said."""
    opened = []
    monkeypatch.setattr(figures, "open_model", lambda model: opened.append(model) or vi.LMM.toy())
    monkeypatch.setattr(vi.plot, "report", lambda study, **_: f"{len(study.cases)}")
    out = tmp_path / "demo.html"
    for there, said in ((False, "vsink small install"), (True, "demo-small.html")):
        monkeypatch.setattr(packages, "installed", lambda there=there: there)
        assert said in vsink("demo", "--out", str(out), "--scenes", "9").stdout
        assert (tmp_path / "demo-small.html").exists() is there
    assert opened == ["toy", "toy", "small"]
    assert out.read_text() == "9"
    assert int((tmp_path / "demo-small.html").read_text()) < 9, "each takes half a minute"
    assert f"at most {figures.SMALL_SCENES} scenes" in " ".join(figures.demo.__doc__.split())


@pytest.mark.parametrize("there", [True, False])
def test_the_small_lmm_gets_scenes_on_photographs_where_there_are_any(
    vsink, tmp_path, monkeypatch, there
):
    """As in its training; objects and captions stay those of the plain scenes."""

    def photographs():
        if there:
            return (np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.float32),)
        raise vi.CapabilityError("scikit-image is not here")

    studies = []
    monkeypatch.setattr(figures, "open_model", lambda _: vi.LMM.toy())
    monkeypatch.setattr(vi.plot, "report", lambda study, **_: studies.append(study) or "page")
    monkeypatch.setattr(packages, "installed", lambda: True)
    monkeypatch.setattr(scenes, "photographs", photographs)
    done = vsink("demo", "--out", str(tmp_path / "demo.html"), "--scenes", "2")
    assert ("gets plain scenes here: scikit-image is not here" in done.stdout) is not there
    toy, small = studies
    pixels, shown = np.asarray(toy.image), np.asarray(small.image)
    assert np.array_equal(np.asarray(small.located[0].image), shown)
    assert small.cases.truth == toy.cases.truth
    assert small.cases.about == "toy scenes 0 to 1" + ", on photographs" * there
    mask = np.any(vi.toy.scene(0).masks, axis=0)
    assert np.array_equal(pixels[mask], shown[mask])
    moved = np.abs(pixels[~mask].astype(int) - shown[~mask]).mean()
    assert bool(moved > 5) is there


def test_the_demo_on_a_small_lmm_that_is_not_there_is_refused_before_the_work(
    tmp_path, monkeypatch
):
    absent = replace(packages.VISION, name="a-package-that-is-not-there")
    monkeypatch.setattr(packages, "PACKAGES", (absent,))
    monkeypatch.setattr(figures, "open_model", lambda _: pytest.fail("the work began"))
    done = CliRunner().invoke(app, ["demo", "--small", "--out", str(tmp_path / "demo.html")])
    assert done.exit_code == 1
    assert "run `vsink small install`" in done.output
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "--image", "no.png"), "there is no image at 'no.png'"),
        (("knockout", "img -> query"), "did you mean 'image'?"),
        (("knockout", "--layers", "40:"), "there is no layer 40"),
        (("knockout", "--scenes", "2", "--layers", "6:"), "leave out --layers"),
        (("knockout", "--scenes", "2", "--prompt", "?"), "leave out --prompt"),
        (
            ("knockout", "--scenes", "2", "--max-new-tokens", "9"),
            "leave out --max-new-tokens",
        ),
        (("generate", "--image", "a.png", "--seed", "3"), "leave one out"),
        (("knockout", "--log", "log.jsonl"), "give --scenes as well"),
        (("var", "--p", "2"), "p is a share from 0 to 1"),
        (("generate", "--model", "no/such/folder"), "does not open"),
        (("demo", "--out", "no/folder/report.html"), "there is no folder"),
        (("report", "--image", "no.png", "--prompt", "?"), "there is no image"),
    ],
)
def test_errors_are_one_line(vsink, words, said):
    done = vsink(*words, status=1)
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_the_program_itself():
    """In a process of its own: JSON alone on stdout, though the model's loading bar is shown."""
    words = ("generate", "--max-new-tokens", "2", "--json")
    done = plain_process.run_module("vsink_interp.cli.main", *words)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"model", "prompt", "answer", "tokens"}


FOREIGN = ("PIL", "jaxtyping", "matplotlib", "nnsight", "numpy", "torch", "transformers")


@pytest.mark.parametrize(
    "words", [("--help",), ("detect", "--help"), ("catalogue", "--help"), ("var", "--p", "x")]
)
def test_help_is_light(words):
    """Nothing heavy is imported before a model is opened: modules are counted, not seconds."""
    code = f"""
import sys
from vsink_interp.cli.main import app
try:
    app({list(words)})
except SystemExit:
    print()
print(len(sys.modules), *(m for m in {FOREIGN} if m in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    count, *loaded = done.stdout.splitlines()[-1].split()
    assert loaded == []
    assert int(count) < 480


def test_the_version():
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert shown.stdout == (
        f"vsink-interp {version('vsink-interp')} (torch {version('torch')}, transformers "
        f"{version('transformers')}, nnsight {version('nnsight')})\n"
    )


def test_no_option_that_nnsight_would_read():
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    named = [
        (*prefix, command.name or command.callback.__name__)
        for prefix, part in [((), app), *(((name,), group) for name, group in groups.items())]
        for command in part.registered_commands
    ]
    assert len(named) > 10
    for words in named:
        shown = CliRunner().invoke(app, [*words, "--help"]).stdout
        assert "Usage" in shown
        assert "<bool>" not in shown
        assert " -v" not in shown
        assert "--verbose" not in shown


@pytest.mark.parametrize("command", ["demo", "report", "attend"])
def test_no_room_for_a_file_is_said_before_the_work(tmp_path, command):
    """A limit on the size of files stands in for a full disk."""
    image = tmp_path / "mine.png"
    toy_scene = vi.toy.scene(9).image
    toy_scene.save(image)
    more = {
        "demo": [],
        "report": ["--image", str(image), "--prompt", "what?"],
        "attend": [str(image), "what?"],
    }[command]
    out = tmp_path / "out" / ("maps.png" if command == "attend" else "report.html")
    out.parent.mkdir()
    code = (
        "import resource, sys, vsink_interp.cli.figures as figures, vsink_interp.cli.main as main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))\n"
        "figures.open_model = lambda model: sys.exit('the work began')\n"
        f"main.app({[command, *more, '--out', str(out)]!r})"
    )
    done = plain_process.run(code)
    assert done.returncode == 1
    assert "vsink: " in done.stderr and "cannot be written" in done.stderr
    assert list(out.parent.iterdir()) == []
