"""Makes what tests of this folder share: a tiny model and its pass."""

import pytest

from avmae_jax.models.cavmae import CAVMAE, Pretraining
from tests.models.tiny_cavmae import make_inputs, random_model, run_model


@pytest.fixture(scope="module")
def model() -> CAVMAE:
    return random_model()


@pytest.fixture(scope="module")
def out(model: CAVMAE) -> Pretraining:
    return run_model(model, *make_inputs())
