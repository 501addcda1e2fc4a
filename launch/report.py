"""Writes a report of a run on one HTML page.

    python -m launch.report RUN [--out RUN/report.html]

RUN is the folder of a run of launch.pretrain or launch.finetune. The page is one HTML file that opens offline, with the configuration,
curves, measurements and images; for a classifier also its evaluation, confusion matrix and hardest mistakes, for a pretraining run its
retrieval with a gallery, and reconstructions.

A missing evaluation or retrieval is computed first and written into RUN/evaluation or RUN/retrieval, as launch.evaluate and launch.retrieve
do, if the run has checkpoints and its data (or --data) can be opened. Of a classifier with averaged weights these are evaluated, into
RUN/averaged/evaluation or RUN/ema/evaluation. With --nomake the page names the command that computes it instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from absl import app, flags, logging

from avmae_jax.files import replacing

from .common import cli, kept_programs, model_flags, runtime, unused

if TYPE_CHECKING:
    from avmae_jax.config import Frames
    from avmae_jax.report.run_folder import RunFolder


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "the HTML file; empty: RUN/report.html")
    flags.DEFINE_bool("make", True, "compute the evaluation or the retrieval if the run has none")


def make_missing(run: RunFolder) -> None:
    """Evaluates a classifier, or the retrieval of a pretraining run, unless its results are there; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.classification import evaluate_views
    from avmae_jax.evals.origin import Origin
    from avmae_jax.evals.retrieval import MODALITIES, retrieve_into
    from avmae_jax.evals.views import common_needs, require_classifier, views_of
    from avmae_jax.inference.embed import DatasetEmbedder
    from avmae_jax.models.modes import learned
    from avmae_jax.report.run_folder import EVALUATION, RETRIEVAL

    single = run.config["model"].get("modality") in ("audio", "image")
    if run.evaluation if run.is_classifier else run.retrieval or single:
        why = (
            "for a pretraining run of one modality"
            if single and not run.is_classifier
            else "as the results are there; delete them for new ones"
        )
        unused.require_left_out(unused.COMPUTING, why)
        return
    path = str(run.recommended)
    trained = model_flags.load(path)
    modes = learned(require_classifier(trained), trained.spec.modes) if run.is_classifier else ()
    source = model_flags.open_clips(path, common_needs(modes) if modes else "both")
    origin = Origin(model_flags.data_name(path), flags.FLAGS.split)
    if not run.is_classifier:
        logging.info("retrieval among %d clips", len(source))
        retrieve_into(run.folder / RETRIEVAL, DatasetEmbedder(trained, MODALITIES), source, origin=origin)
        return
    tune = model_flags.run_config(path).tune  # the run's own crops and frames, so that its measurements are reproduced
    views = views_of(modes, [cast("Frames", tune.eval_frames)], tune.eval_crops)
    evaluate_views(run.recommended / EVALUATION, trained, source, views, origin)


def main(argv: list[str]) -> None:
    """Writes the page of RUN."""
    if len(argv) != 2:
        raise app.UsageError(f"give one RUN, the folder of a run; there are {len(argv) - 1}")
    unused.require_used("report", argv)
    runtime.start()
    kept_programs.cache_programs()
    from avmae_jax.report.build import report
    from avmae_jax.report.run_folder import RunFolder

    folder = Path(argv[1]).expanduser()
    out = Path(flags.FLAGS.out).expanduser() if flags.FLAGS.out else folder / "report.html"
    with model_flags.one_line_errors():
        run = RunFolder(folder)
        if flags.FLAGS.make:
            try:
                make_missing(run)
            except model_flags.USER_ERRORS as error:
                logging.warning("the page lacks what couldn't be computed: %s: %s", type(error).__name__, error)
        page = report(folder)
        with replacing(out) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="replace")
    print(f"{out}, {out.stat().st_size / 2**20:.1f} MiB; it opens offline")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
