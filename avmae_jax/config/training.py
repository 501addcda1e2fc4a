"""Defines the settings of training: losses, fine-tuning, optimizer, devices and the loop."""

import dataclasses

from avmae_jax.errors import ConfigError
from avmae_jax.settings import Settings

MATMUL_PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")  # names that JAX has for them


@dataclasses.dataclass
class LossConfig(Settings, group="loss"):
    """Weighs the parts of the pretraining loss."""

    mae_weight: float = 1.0  # weight of audio + image reconstruction
    contrast_weight: float = 0.01  # weight of the contrastive loss
    temperature: float = 0.05  # fixed temperature of the contrastive softmax
    bidirectional: bool = False  # False: softmax over audio for each image; True: the mean of both directions
    norm_pix: bool = True  # predict patches that are each normalised by their own mean and deviation; inpainting needs False
    clip_negatives: bool = False  # sync: the other pairs of the same clip are negatives too, so that moments are told apart, not only clips
    global_local: bool = False  # sync: the mean of the contrastive losses of the class tokens and of the means over patches
    contrast_pass: bool = False  # compute the contrastive loss from a second pass, masked anew by model.contrast_mask_ratio
    contrast_order: str = "random"  # random | attention: patches that this pass sees; attention: those that a teacher ranks highest
    distill_weight: float = 0.0  # weight of 1 - cosine between the vectors of that pass and a teacher's, which sees every patch; 0: off
    teacher_momentum: float = 0.999  # share of the teacher's weights that stays at each step, after a warm-up of some ten steps
    negatives: str = "global"  # global | micro_batch | shard: from the batch, the pairs computed at once, or a device's share of these

    @property
    def needs_teacher(self) -> bool:
        """Returns whether something is asked for that a teacher gives."""
        return self.contrast_pass and (self.contrast_order == "attention" or self.distill_weight > 0)

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_not_negative("mae_weight", "contrast_weight", "distill_weight")
        self.require_choice("contrast_order", ("random", "attention"))
        self.require("contrast_order", self.contrast_order == "random" or self.contrast_pass, "it orders the pass of loss.contrast_pass")
        self.require("distill_weight", not self.distill_weight or self.contrast_pass, "it needs the pass of loss.contrast_pass")
        self.require_share("teacher_momentum", one=False)
        self.require("mae_weight", self.mae_weight + self.contrast_weight > 0, "it must be positive where loss.contrast_weight is 0")
        self.require_positive("temperature")
        self.require_choice("negatives", ("global", "micro_batch", "shard"))


@dataclasses.dataclass
class TuneConfig(Settings, group="tune"):
    """Configures fine-tuning: a classifier on the pretrained encoder. Pretraining ignores it."""

    mode: str = "multimodal"  # multimodal | audioonly | videoonly: the classifier's inputs
    loss: str = "bce"  # bce | ce: several classes a clip, each decided by itself, or exactly one
    head_lr_ratio: float = 1.0  # the head's learning rate divided by that of the other layers
    freeze_base: bool = False  # True: train only the head, a linear probe
    average_first: int = 0  # first epoch, counted from 1, whose weights are averaged into the run's averaged/; 0: no average
    average_last: int = 0  # last epoch of that average
    both_weight: float = 1.0  # multimodal only: weight of the loss of the classifier given both; 0: only the two below are trained
    audio_weight: float = 0.0  # multimodal only: weight of an additional loss of the classifier given the audio alone
    image_weight: float = 0.0  # the same for the image alone; the original has neither loss
    swap_pictures: float = 0.0  # multimodal only: share of clips that get another clip's image and keep their label, in [0, 1]
    eval_crops: int = 1  # pieces of an audio longer than the model's input whose predictions are averaged; 1: its centre
    eval_frames: str = "middle"  # middle | all: evaluate on the middle frame, or average over all frames

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_choice("mode", ("multimodal", "audioonly", "videoonly"))
        self.require_choice("loss", ("bce", "ce"))
        self.require_choice("eval_frames", ("middle", "all"))
        self.require_positive("head_lr_ratio", "eval_crops")
        self.require_not_negative("both_weight", "audio_weight", "image_weight")
        left = self.mode != "multimodal" or self.both_weight or (self.audio_weight and self.image_weight)
        self.require("both_weight", bool(left), "it can be 0 only where tune.audio_weight and tune.image_weight are positive")
        self.require_share("swap_pictures")
        if not (0 < self.average_first <= self.average_last or self.average_first == self.average_last == 0):
            raise ConfigError(
                f"tune.average_first is {self.average_first} and tune.average_last {self.average_last}; give the first and the last epoch "
                "of the mean, counted from 1, or 0 twice for none"
            )


@dataclasses.dataclass
class OptimConfig(Settings, group="optim"):
    """Configures Adam and the schedule of its rate; the defaults are the published L2 inside the gradient and decay in steps."""

    kind: str = "adam"  # adam | adamw: weight_decay as L2, or apart from the gradient and on weight matrices alone
    learning_rate: float = 5e-5  # of the first epochs, before any decay and after the warm-up
    weight_decay: float = 5e-7  # adam: L2 added to the gradient before the moments; adamw: times the rate, the share taken off (0.05, say)
    beta1: float = 0.95  # decay of Adam's first moment, in [0, 1)
    beta2: float = 0.999  # decay of Adam's second moment, in [0, 1)
    eps: float = 1e-8  # added to the root of the second moment
    clip_norm: float = 0.0  # largest norm of the whole gradient; a longer one is shortened to it. 0: off
    layer_decay: float = 1.0  # factor from each encoder block's rate to that of the block below it, in (0, 1]; the head has the full rate
    warmup_steps: int = 0  # first steps, over which the rate rises evenly from 0
    warmup_share: float = 0.0  # the same as a share of the run's steps, in [0, 1), in place of warmup_steps
    schedule: str = "steps"  # steps | cosine: the three decay fields below, or half a cosine down to cosine_floor at the run's end
    cosine_floor: float = 0.0  # share of the rate at the end of the cosine, in [0, 1]
    decay_start: int = 10  # epochs after which the rate is first multiplied by decay_rate
    decay_every: int = 5  # epochs between further decays
    decay_rate: float = 0.5  # factor of each decay

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require_choice("kind", ("adam", "adamw"))
        self.require_choice("schedule", ("steps", "cosine"))
        self.require_not_negative("learning_rate", "weight_decay", "eps", "decay_start", "decay_rate", "clip_norm", "warmup_steps")
        self.require("layer_decay", 0 < self.layer_decay <= 1, "it must lie in (0, 1]")
        self.require_share("beta1", "beta2", "warmup_share", one=False)
        self.require_share("cosine_floor")
        once = not (self.warmup_share and self.warmup_steps)
        self.require("warmup_share", once, f"optim.warmup_steps is {self.warmup_steps}, and there is one warm-up; set one of them to 0")
        self.require_positive("decay_every")


@dataclasses.dataclass
class MeshConfig(Settings, group="mesh"):
    """Lays out the devices; the product must be the number of devices. One of the three may be -1: the devices that are left."""

    data: int = -1  # copies of the model, each with its share of the batch
    fsdp: int = 1  # parts into which parameters, moments and the batch are cut
    tensor: int = 1  # parts into which heads and MLP channels are cut

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work; the number of devices is compared when the mesh is made."""
        sizes = (self.data, self.fsdp, self.tensor)
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            self.require(name, size >= 1 or (size == -1 and sizes.count(-1) == 1), "give at least 1, or -1 for one of the three")


@dataclasses.dataclass
class TrainConfig(Settings, group="train"):
    """Configures the loop: length, intervals, folder."""

    workdir: str = "runs/default"  # folder of the run's checkpoints, metrics and images; starting again in it resumes the run
    batch_size: int = 48  # pairs a step, over all devices
    micro_batch: int = 0  # pairs computed at once; 0: as many as fit in memory
    epochs: float = 25.0  # passes over the training set; may be fractional
    steps: int = 0  # > 0: train for this many steps, regardless of `epochs`
    seed: int = 0  # of the initial weights, the order of clips, masks and augmentation
    log_every: int = 10  # steps between flushes of metrics.jsonl to the disk, and between lines on the screen where it shows no bar
    ema: float = 0.0  # of averaged weights, kept in the run's ema/: the share that stays at each step (0.99: about 100 steps); 0: none
    eval_every: int = 0  # steps between evaluations; 0: after every epoch
    picture_every: int = 0  # steps between images of reconstructions; 0: with every evaluation
    checkpoint_every: int = 0  # steps between checkpoints; 0: after every epoch
    checkpoint_minutes: float = 15.0  # also save when this many minutes have passed since the last checkpoint; 0: off
    keep_last: int = 3  # newest checkpoints kept
    keep_every: int = 0  # also keep every checkpoint whose step is a multiple of this; 0: none
    eval_batches: int = 0  # batches of an evaluation; 0: the whole held-out set
    retrieval_clips: int = 200  # held-out clips that the final retrieval is computed on; 0: none
    matmul_precision: str | None = None  # default | high | highest, of float32 products on GPUs and TPUs; None: JAX's own
    deterministic: bool = False  # on GPUs: kernels that repeat to the last bit, chosen once and kept in the run's folder; slower

    def validate(self) -> None:
        """Raises ConfigError naming the first field that can't work."""
        self.require("workdir", bool(self.workdir), "give a folder for the run")
        self.require_positive("batch_size", "epochs", "log_every", "keep_last")
        self.require_share("ema", one=False)
        self.require_not_negative("micro_batch", "steps", "seed", "eval_every", "picture_every", "checkpoint_every", "keep_every")
        self.require_not_negative("eval_batches", "retrieval_clips", "checkpoint_minutes")
        self.require(
            "matmul_precision", self.matmul_precision in (None, *MATMUL_PRECISIONS), f"choose one of {', '.join(MATMUL_PRECISIONS)}"
        )
        fits = not self.micro_batch or self.batch_size % self.micro_batch == 0
        self.require("micro_batch", fits, f"train.batch_size = {self.batch_size} must be a multiple of it")
