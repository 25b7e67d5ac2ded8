"""The benchmark of tiling at a small size; and, as a stress test, what it has to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tiling
from benchmarks.rows import merge_rows
from pix2gan.checkpoints import ModelConfig, save_model
from pix2gan.data.image_io import open_image
from pix2gan.models import create_generator

pytest.importorskip("pyvips", reason="the extra [gigapixel] is not installed", exc_type=ImportError)
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM")

BUNDLED = "sketch2motorbike"


def test_a_row_tells_time_memory_and_difference(tmp_path: Path, monkeypatch) -> None:
    generator = create_generator("unet128", width=2, num_downs=3, in_channels=1)
    config = ModelConfig(architecture=dict(generator.config), in_channels=1)
    model = str(save_model(tmp_path / "tiny", generator, config))
    monkeypatch.setitem(tiling.SIZES, "crop", (1100, 140))
    (row,) = tiling.run_size(model, "crop", tmp_path)
    assert row["name"] == "tiny 1100x140 fast"
    assert row["opponent"] == "the same file, exact"
    assert 50 < row["peak_mb"] < 2000
    assert row["grey_max"] <= 1, "so small an image is its own sample"
    assert merge_rows(tmp_path / "rows.json", [row])
    sheet = open_image(tmp_path / "crop.tif")
    assert sheet.shape == (140, 1100, 1)


@pytest.mark.stress
def test_exact_equals_untiled_at_2048x1536(tmp_path: Path) -> None:
    source = tiling.write_sheet(tmp_path / "in.tif", 2048, 1536)
    assert tiling.exact_error(BUNDLED, source) <= 1e-5


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_6000x4000_exactly_takes_3_gb_and_little_more_than_a_forward_pass(tmp_path: Path) -> None:
    """Within 20 minutes; 2.5 forwards of work, by the processor's time, which load does not move
    much."""
    source = tiling.write_sheet(tmp_path / "in.tif", 6000, 4000)
    untiled, exact = (
        tiling.in_child(BUNDLED, source, tmp_path / f"{mode}.tif", mode)
        for mode in ("untiled", "exact")
    )
    assert exact.peak_mb <= 3000
    assert exact.milliseconds[0] <= 20 * 60e3
    assert exact.processor_ms <= 2.5 * untiled.processor_ms
    apart = tiling.grey_levels_apart(tmp_path / "untiled.tif", tmp_path / "exact.tif")
    assert apart["grey_max"] <= 1


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_20000x20000_takes_2_gb(tmp_path: Path) -> None:
    import pyvips

    source = tiling.write_sheet(tmp_path / "in.tif", 20000, 20000)
    run = tiling.in_child(BUNDLED, source, tmp_path / "out.tif", "fast")
    assert run.peak_mb <= 2000
    made = pyvips.Image.new_from_file(str(tmp_path / "out.tif"))
    assert (made.width, made.height, made.bands) == (20000, 20000, 3)
    for left, top in ((0, 0), (9000, 13000), (19500, 19500)):
        assert made.crop(left, top, 500, 500).numpy().std() > 1
