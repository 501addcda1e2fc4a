"""Pretrains CAV-MAE on video clips without labels.

    python -m launch.pretrain --config configs/base.py [--config.train.batch_size=4 ...]

The run lives in `--config.train.workdir`: config.json, environment.json, log.txt, checkpoints/, metrics.jsonl, tensorboard/, pictures/ and,
at the end, summary.json. Ctrl-C and SIGTERM save and stop it after the step under way; a second Ctrl-C stops it at once. The same command
resumes a run that was stopped or killed. On several GPUs or hosts, start it once for each host or GPU, in the same folder.
"""

from typing import Any

from .common import cli, hosts_flags, model_flags, runtime, training_flags, unused

define_flags = training_flags.define


def report(summary: dict[str, Any], workdir: str) -> None:
    """Prints the result in a few lines."""
    losses = ", ".join(f"{name} {value:.4f}" for name, value in summary["held_out"].items())
    print(f"{summary['steps']} steps in {summary['seconds']:.0f} s; held out: {losses or 'nothing'}")
    if retrieval := summary["retrieval"]:
        for name in ("audio_to_image", "image_to_audio"):
            shares = ", ".join(f"R@{k} {retrieval[f'{name}_r{k}']:.1%}" for k in (1, 5, 10))
            ties = f", {retrieval[f'{name}_ties']:.0f} ties" if retrieval[f"{name}_ties"] else ""
            print(f"{name.replace('_', ' ')}: {shares} of {retrieval['clips']:.0f} (chance of R@1: {1 / retrieval['clips']:.1%}){ties}")
    runtime.print_warning(summary)
    print(f"checkpoints, metrics and pictures are in {workdir}")


def main(argv: list[str]) -> None:
    """Runs --config."""
    cli.no_arguments(argv)
    unused.require_used("pretrain", argv)
    runtime.start()
    with model_flags.one_line_errors():
        config = cli.config()
    with hosts_flags.joined() as first, model_flags.one_line_errors():
        from avmae_jax.train.run import pretrain

        with runtime.TrainingBar(config.train.log_every, shown=first).shown() as bar:
            summary = pretrain(config, reporter=bar, on_progress=bar.generating, profile=training_flags.profile())
    if summary and first:
        report(summary, config.train.workdir)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
