"""The run command, with a model of NumPy behind it."""

import pytest
from click.testing import CliRunner

from engines.prompt import Prompt
from engines.session import Session
from exporter.cli import tp_export
from tests.engines.numpy_bundle import contract, picture, save_tokenizer, video
from tests.engines.numpy_model import IMAGE, NumpyModel

TEMPLATE = """\
{%- for m in messages %}{{ m.role | upper }}: {% for p in m.content %}
{%- if p.type == 'text' %}{{ p.text }} {% else %}<{{ p.type }}> {% endif %}{% endfor %}{% endfor %}ASSISTANT:"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    model = NumpyModel(forms=("tiles", "video"))
    save_tokenizer(tmp_path)
    session = Session(contract(model), model.parts(), Prompt(tmp_path, IMAGE, TEMPLATE))
    monkeypatch.setattr(Session, "open", lambda *_, **__: session)
    return model


def test_images_and_videos_come_before_the_first_question(model, tmp_path):
    picture(1, (9, 9)).save(tmp_path / "a.png")
    frames = video(1).frames
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:])
    (tmp_path / "film").mkdir()
    frames[0].save(tmp_path / "film/0.png")
    films = [f"--video={tmp_path / name}" for name in ("b.webp", "film")]
    asked = [f"--image={tmp_path / 'a.png'}", "--prompt=what color ?", "--prompt=and it ?", "--max-new-tokens=1"]
    done = CliRunner().invoke(tp_export, ["run", "bundle", *films, *asked])
    assert done.exit_code == 0, done.output
    assert model.calls == ["vision", "vision.video", "decoder", "decoder"]
    assert len(done.stdout.splitlines()) == 2


def test_a_still_picture_is_no_video(model, tmp_path):
    picture(1).save(tmp_path / "a.png")
    done = CliRunner().invoke(tp_export, ["run", "bundle", f"--video={tmp_path / 'a.png'}", "--prompt=what ?"])
    assert "a still picture, not a video" in str(done.exception)
    assert model.calls == []
