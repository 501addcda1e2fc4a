"""Writes a report of a run on one HTML page.

    python -m launch.report RUN [--out RUN/report.html]

RUN is the folder of a run of launch.pretrain or launch.finetune. The page is one HTML file that opens offline, with the configuration,
curves, measurements and images; for a classifier also its evaluation, confusion matrix and hardest mistakes, for a pretraining run its
retrieval with a gallery, and reconstructions to look at and to listen to.

A missing evaluation or retrieval is computed first and written into RUN/evaluation or RUN/retrieval, as launch.evaluate and launch.retrieve
do, and audio into RUN/listening, if the run has checkpoints and its data (or --data) can be opened. Of a classifier with averaged weights
these are evaluated, into RUN/averaged/evaluation or RUN/ema/evaluation. With --nomake the page names the command that computes it instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from absl import app, flags, logging

from avmae_jax.errors import counted
from avmae_jax.files import replacing

from .common import cli, kept_programs, model_flags, runtime, unused
from .common.views import frames_of

if TYPE_CHECKING:
    from avmae_jax.config import Frames, Modality
    from avmae_jax.evals.origin import Origin
    from avmae_jax.report.run_folder import RunFolder


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "the HTML file; empty: RUN/report.html")
    flags.DEFINE_bool("make", True, "compute the evaluation, or the retrieval and audio to listen to, if the run has none")


def make_missing(run: RunFolder) -> None:
    """Computes what the page lacks: of a classifier its evaluation, of a pretraining run its retrieval and what can be listened to."""
    modality = run.config["model"].get("modality")
    if run.is_classifier:
        makers = [evaluate] * (not run.evaluation)
    else:
        makers = [retrieve] * (not run.retrieval and modality not in ("audio", "image"))
        makers += [listen] * (not run.listening and modality != "image")
    if not makers:
        none = modality == "image" and not run.is_classifier
        why = "for a pretraining run of images alone" if none else "as the results are there; delete them for new ones"
        unused.require_left_out(unused.COMPUTING, why)
    for make in makers:
        try:
            make(run)
        except model_flags.USER_ERRORS as error:
            logging.warning("the page lacks what couldn't be computed: %s: %s", type(error).__name__, error)


def evaluate(run: RunFolder) -> None:
    """Evaluates a classifier into its folder; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.classification import evaluate_views
    from avmae_jax.evals.views import common_needs, require_classifier, views_of
    from avmae_jax.models.modes import learned
    from avmae_jax.report.run_folder import EVALUATION

    path = str(run.recommended)
    trained = model_flags.load(path)
    modes = learned(require_classifier(trained), trained.spec.modes)
    source = model_flags.open_clips(path, common_needs(modes))
    tune = model_flags.run_config(path).tune  # the run's own crops and frames, so that its measurements are reproduced
    views = views_of(modes, frames_of(trained, [cast("Frames", tune.eval_frames)]), tune.eval_crops)
    evaluate_views(run.recommended / EVALUATION, trained, source, views, origin(path))


def retrieve(run: RunFolder) -> None:
    """Evaluates the retrieval of a pretraining run into its folder; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.retrieval import MODALITIES, retrieve_into
    from avmae_jax.inference.embed import DatasetEmbedder
    from avmae_jax.report.run_folder import RETRIEVAL

    path = str(run.folder)
    trained, source = model_flags.load(path), model_flags.open_clips(path, "both")
    logging.info("retrieval among %s", counted(len(source), "clip"))
    retrieve_into(run.folder / RETRIEVAL, DatasetEmbedder(trained, MODALITIES), source, origin=origin(path))


def listen(run: RunFolder) -> None:
    """Writes audio of what a pretraining run fills in into its folder; raises model_flags.USER_ERRORS."""
    from avmae_jax.evals.listening import listen_into
    from avmae_jax.report.run_folder import LISTENING

    path = str(run.folder)
    trained = model_flags.load(path)
    source = model_flags.open_clips(path, cast("Modality", trained.config.model.modality))
    listen_into(run.folder / LISTENING, trained, source, origin(path))


def origin(path: str) -> Origin:
    """Names the clips that are used."""
    from avmae_jax.evals.origin import Origin

    return Origin(model_flags.data_name(path), flags.FLAGS.split)


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
            make_missing(run)
        page = report(folder)
        with replacing(out) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="replace")
    print(f"{out}, {out.stat().st_size / 2**20:.1f} MiB; it opens offline")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
