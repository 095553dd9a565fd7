"""What docs/ultralytics.md shows runs as it stands there."""

import re
from pathlib import Path

import pytest
from ultralytics_scenes import write_scenes

ultralytics = pytest.importorskip("ultralytics")

PAGE = Path(__file__).parents[3] / "docs" / "ultralytics.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_block_of_the_page_runs(tiny, tmp_path, monkeypatch, capsys):
    """On a small detector and small images, in one Python session."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "data", "detect")
    (tmp_path / "data" / "data.yaml").rename(tmp_path / "data.yaml")
    ultralytics.YOLO(tiny).save("best.pt")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    session = {}
    for block in blocks:
        exec(block.replace("640", "64"), session)
    told = capsys.readouterr().out
    assert "half.pt: " in told
    assert "read back by ultralytics" in told
    parameters = [sum(one.numel() for one in session[name].model.parameters()) for name in ("half", "last")]
    assert parameters[0] == parameters[1]
    assert f"{parameters[0]} parameters" in told
    assert session["result"].after.params < session["result"].before.params
