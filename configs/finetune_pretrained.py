"""python -m launch.finetune --config configs/finetune_pretrained.py --config.init_from=cav-mae-scale++.pth

Tunes the base model to name the classes of a few hundred labelled clips, from a checkpoint of the authors or a run of configs/base.py.
The clips are those of the folder `prepared`; `--config.data.path=DATASET` names another one. `--config.tune.freeze_base=True` trains the
head alone.

Nothing here was measured: the authors' weights can't be had where this was written. The recipe is the published one for the smallest set,
AudioSet-20K (Gong et al., arXiv 2210.07839, and the authors' script, which adds noise and a roll in time), with three changes.
Each clip has one class, so the loss is a softmax, as published for VGGSound. A batch is smaller, so that so few clips make a few hundred
updates. Lower blocks learn more slowly, as published for the tuning of an image MAE (He et al., arXiv 2111.06377, appendix A).
"""

from avmae_jax.config import AUDIO_MEAN, AUDIO_STD, Config
from avmae_jax.config_files import shipped


def get_config() -> Config:
    config = shipped("finetune_audioset20k")
    config.name = "finetune_pretrained"
    config.requires = ("init_from",)
    config.data.path = "prepared"
    config.data.audio_mean, config.data.audio_std = AUDIO_MEAN, AUDIO_STD  # with which the weights were trained
    config.tune.loss = "ce"
    config.optim.layer_decay = 0.75
    config.augment.noise = True
    config.train.workdir = "runs/finetune_pretrained"
    config.train.batch_size = 12
    config.train.keep_last = 1  # of 2 GB each
    return config
