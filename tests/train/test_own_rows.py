"""Tests that each device computes the log-mel of its own share of a batch, and nothing of the others."""

import json
import re
import textwrap

import pytest

from tests.support import TINY, Program

BATCH = 16
MESHES: dict[tuple[int, ...], int] = {(8, 1, 1): 8, (1, 8, 1): 8, (2, 2, 2): 4}  # (data, fsdp, tensor) -> parts into which a batch is cut
SAMPLES, FRAMES = 10_480, 64  # of a clip of TINY
INPUTS = re.compile(rf"\[(\d+,)*({SAMPLES}|{FRAMES + 2},160|{FRAMES},(400|512|257|128)|32,32,3)\]")  # waveforms, frames, spectra, images

# Compiles the step of training for each mesh and prints its programs.
COMPILE = """
    import json, sys
    from pathlib import Path
    import jax, numpy as np
    from flax import nnx
    from avmae_jax.config import Config
    from avmae_jax.models.cavmae import CAVMAE
    from avmae_jax.train import sharding
    from avmae_jax.train.fitting import Fit
    from avmae_jax.train.loop import Trainer
    from avmae_jax.train.pretraining import PretrainingTask
    from tests.support import Clips, apply

    jax.config.update("jax_numpy_dtype_promotion", "standard")  # see conftest.optax_promotion
    texts = []
    for changes in json.loads(sys.argv[1]):
        config = apply(Config(), changes)
        model, task = CAVMAE(config.model, rngs=nnx.Rngs(0)), PretrainingTask(config, None, Path("unused"))
        trainer = Trainer(config, model, task, Clips(24), None, fit=Fit(config.train.micro_batch))
        batch = sharding.put_batch(next(trainer.batches), trainer.mesh)
        trainer.batches.close()
        texts.append(trainer.jitted_step.lower(trainer.leaves, batch, trainer.key, np.int32(0)).compile().as_text())
    print(json.dumps(texts))
"""


@pytest.fixture(scope="module")
def programs(program: Program) -> dict[tuple[int, ...], str]:
    wanted = [
        TINY | {"train.batch_size": 2 * BATCH, "train.micro_batch": BATCH, "mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
        for data, fsdp, tensor in MESHES
    ]
    done = program("-c", textwrap.dedent(COMPILE), json.dumps(wanted), devices=8)
    assert done.returncode == 0, done.stderr
    return dict(zip(MESHES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_no_device_gets_audio_or_images_of_another(programs: dict[tuple[int, ...], str], mesh: tuple[int, ...]) -> None:
    text = programs[mesh]
    moving = [
        line for line in text.splitlines() if re.search(r" (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)\S*\(", line)
    ]
    assert moving  # of gradients
    assert not [line for line in moving if INPUTS.search(line.partition("metadata=")[0])]
    assert set(re.findall(r"c64\[(\d+),\d+,\d+\]\S* fft\(", text)) == {str(BATCH // MESHES[mesh])}
