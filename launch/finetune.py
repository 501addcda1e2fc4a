"""Fine-tunes a classifier on labelled clips.

    python -m launch.finetune --config configs/finetune_instruments.py --config.init_from=runs/pretrain_instruments

`init_from` is a run of launch.pretrain, or a checkpoint of the original; if it is empty, the classifier starts from random weights. The
classes are those of the data set. The run lives in `--config.train.workdir`, like a run of launch.pretrain, and the same command resumes
it. Beside its checkpoints, best/ holds the weights of the best evaluation, and averaged/ the mean of the weights after the epochs from
tune.average_first to tune.average_last. With train.ema, ema/ holds the moving average of the weights.
"""

from pathlib import Path

from .common import cli, hosts_flags, model_flags, runtime, training_flags, unused

define_flags = training_flags.define


def main(argv: list[str]) -> None:
    """Runs --config."""
    cli.no_arguments(argv)
    unused.require_used("finetune", argv)
    runtime.start()
    with model_flags.one_line_errors():
        config = cli.config()
    with hosts_flags.joined() as first, model_flags.one_line_errors():
        from avmae_jax.train.run import finetune

        with runtime.TrainingBar(config.train.log_every, shown=first).shown() as bar:
            summary = finetune(config, reporter=bar, on_progress=bar.generating, profile=training_flags.profile())
    if summary and first:
        print(f"{summary['steps']} steps in {summary['seconds']:.0f} s")
        for name, key in (("held out", "held_out"), ("held out, mean of epochs", "averaged"), ("held out, moving average", "ema")):
            if found := summary.get(key):
                print(f"{name}: {', '.join(f'{field} {value:.4g}' for field, value in found.items())}")
        runtime.print_warning(summary)
        print(f"checkpoints and metrics are in {Path(config.train.workdir)}")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
