"""Compares files of other sizes and options, which the PyTorch reference records, by the same code as those of the originals."""

# pyright: reportMissingImports=false

from pathlib import Path

import pytest

pytest.importorskip("timm", reason='the reference needs PyTorch and timm: pip install -e ".[parity]"')

import numpy as np

from avmae_jax.config import LossConfig
from parity.golden import load, of
from parity.recorded.arrays import GoldenError
from parity.recordings import Arrays, record_classifier, record_pretraining
from parity.rows import assert_all
from parity.side_by_side import small

pytestmark = pytest.mark.usefixtures("unpolished", "promoting")


@pytest.fixture(scope="module")
def several() -> Arrays:
    """Values of three joint blocks, of which the contrastive streams use the last."""
    config = small(depth=4, joint_depth=3, unchained_contrastive=True, width=24, heads=3, image_mask_ratio=0.5)
    return record_pretraining(config, LossConfig(norm_pix=False, bidirectional=True, contrast_weight=0.125, mae_weight=2.0))


@pytest.mark.slow
def test_several_joint_blocks_of_which_some_have_no_gradient(several: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", **several)  # pyright: ignore[reportArgumentType]
    recorded = load(tmp_path / "file.npz")
    assert (recorded.config.shape.heads, recorded.config.joint_depth, recorded.config.unchained_contrastive) == (3, 3, True)
    assert (recorded.loss.norm_pix, recorded.loss.bidirectional) == (False, True)
    assert (recorded.loss.contrast_weight, recorded.loss.mae_weight) == (0.125, 2.0)
    rows = recorded.rows()
    assert_all(rows, at_least=240)
    exact = {row.name for row in rows if row.tolerance == 0}
    assert {"grad.blocks_u.0.norm1_a.weight (none)", "after2.blocks_u.1.norm2_v.bias", "after2.pos_embed_a"} <= exact
    assert "grad.blocks_u.2.norm1_a.weight" in {row.name for row in rows} - exact


@pytest.mark.slow
def test_chained_joint_blocks_all_have_a_gradient() -> None:
    recorded = of(record_pretraining(small(depth=3, joint_depth=2, learned_positions=True), LossConfig()))
    assert not recorded.config.unchained_contrastive
    rows = recorded.rows()
    assert_all(rows, at_least=200)
    assert {"grad.blocks_u.0.norm1_a.weight", "grad.pos_embed_a"} <= {row.name for row in rows}


@pytest.mark.slow
def test_a_gradient_where_there_should_be_none_and_the_other_way_round(several: Arrays) -> None:
    changed = dict(several)
    del changed["grad.blocks_u.2.norm1_a.weight"]
    changed["grad.blocks_u.0.norm1_a.weight"] = np.ones_like(several["param.blocks_u.0.norm1_a.weight"])
    changed["after2.blocks_a.0.norm1_v.bias"] = changed["after2.blocks_a.0.norm1_v.bias"] + 1  # a norm that no pass uses
    failed = {row.name for row in of(changed).training_rows() if not row.ok}
    expected = {"grad.blocks_u.2.norm1_a.weight (none)", "grad.blocks_u.0.norm1_a.weight", "after2.blocks_a.0.norm1_v.bias"}
    assert failed == expected | {"after2.blocks_u.2.norm1_a.weight"}  # it moved in the file


@pytest.mark.slow
def test_weights_after_more_steps_than_there_is_noise_for_are_refused(several: Arrays) -> None:
    lacking = {name: value for name, value in several.items() if not name.endswith("_step1")}
    with pytest.raises(GoldenError, match=r"in\.noise_audio_step\* are missing"):
        of(lacking).rows()


@pytest.mark.slow
@pytest.mark.parametrize(("joint_depth", "heads"), [(1, 2), (2, 8)])
def test_classifiers_of_any_heads(joint_depth: int, heads: int) -> None:
    config = small(depth=3, joint_depth=joint_depth, heads=heads)
    recorded = of(record_classifier(config, 5, ("multimodal", "videoonly", "missingaudioonly")))
    assert (recorded.config.shape.heads, recorded.config.joint_depth) == (heads, joint_depth)
    rows = recorded.rows()
    assert_all(rows, at_least=100)
    assert "grad.videoonly.blocks_a.0.attn.qkv.weight (none)" in {row.name for row in rows}
