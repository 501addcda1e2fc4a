"""Opens a page in the browser on which a model can be tried with videos, sounds, pictures and the microphone.

    python -m launch.demo [RUN] [--port 7860]

RUN is a run of launch.finetune or launch.pretrain, a file of weights, or the id of a model on a hub; without it the model in the box
answers. The page shows the classes of a file, also along time under the player, what the model says of the sound alone and of the picture
alone, which parts its answer comes from, how well sound and picture match, and of a pretraining run what it fills in.

Only this machine can open the page, unless --host names another address. Files that visitors drop are limited by --max_mb, --max_seconds
and --max_computing, and deleted afterwards. Nothing is sent to anybody. Needs the extra `demo`: pip install -e ".[demo]".
"""

from __future__ import annotations

import importlib.util
import math
import sys
from typing import TYPE_CHECKING

from absl import app, flags

from avmae_jax.weights.box import DEFAULT

from .common import cli, kept_programs, model_flags, runtime, unused

if TYPE_CHECKING:
    from avmae_jax.weights.trained import Trained


def main(argv: list[str]) -> None:
    """Serves the page until it is interrupted."""
    args = flags.FLAGS
    if len(argv) > 2:
        raise app.UsageError("give one model, a run's folder or a file of weights")
    if importlib.util.find_spec("gradio") is None:
        sys.exit('the page needs gradio; install it: pip install -e ".[demo]"')
    unused.require_used("demo", argv)
    runtime.start()
    kept_programs.cache_programs()
    path = argv[1] if len(argv) == 2 else DEFAULT
    from avmae_jax.demo.answers import Answerer
    from avmae_jax.demo.limits import Limits
    from avmae_jax.demo.server import require_free, served, wait

    with model_flags.one_line_errors():
        require_free(args.host, args.port)
        trained = model_flags.load(path)
        answerer = Answerer(trained, Limits(args.max_mb, args.max_seconds, args.max_computing))
        if args.index:
            with runtime.progress_bar("embedding the index") as on_progress:
                answerer.search_in(args.index, args.split, on_progress)
        with served(answerer, about_model(path, trained), args.host, args.port) as address:
            print(f"the page is open at {address} until Ctrl-C", flush=True)
            wait()


def about_model(path: str, trained: Trained) -> str:
    """Says which model answers, and how good it is where that is known."""
    from avmae_jax.weights import box, places

    if box.is_boxed(path):
        card = box.card_of(path)
        named = f"{', '.join(card.label_names[:-1])} and {card.label_names[-1]}"
        return f"{path} knows {named}; it was right for {100 * card.figures['both'].accuracy:.0f}\u00a0% of {card.held_out} held-out clips."
    knows = f"knows {trained.classes} classes" if trained.classes else "was pretrained without labels, so that it names no classes"
    return f"{places.name_of(path)}, a {trained.spec.title}, {knows}."


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags()
    flags.DEFINE_string("index", "", "clips whose nearest ones are shown: a folder written by launch.prepare, or a file by launch.embed")
    flags.DEFINE_enum("split", "test", ["train", "test"], "clips of an --index that is a folder")
    flags.DEFINE_string("host", "127.0.0.1", "address that is served; 0.0.0.0: every machine that can reach this one may open the page")
    flags.DEFINE_integer("port", 7860, "port that is served; 0: the first free one from 7860 on", lower_bound=0, upper_bound=65_535)
    flags.DEFINE_integer("max_mb", 200, "megabytes of a file, at most", lower_bound=1)
    flags.DEFINE_float("max_seconds", 600, "seconds of a file that are handled, at most", lower_bound=1)
    flags.DEFINE_float("max_computing", 60, "seconds that are spent on a file, at most", lower_bound=1)
    for name in ("max_seconds", "max_computing"):
        flags.register_validator(name, math.isfinite, "must be a finite number of seconds")


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
