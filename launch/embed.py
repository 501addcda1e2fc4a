"""Writes vectors of clips: `python -m launch.embed MODEL --out FILE [--data DATASET --split test --what audio,image,joint]`.

MODEL is a run's folder, its best/ or averaged/, or a file of weights, of a CAV-MAE or its classifier. FILE ends in .npz or .array_record;
avmae_jax/inference/embedding_files.py tells what is in it. It is written as clips are computed and has its name once it is complete;
nothing that exists is overwritten. Without --data the clips are those of the model's run.
"""

import sys
from collections.abc import Iterable, Iterator

from absl import app, flags

from avmae_jax.files import OnProgress
from avmae_jax.inference.embed import KINDS, Embed, Part, kinds_of, needs_of, note_of
from avmae_jax.inference.embedding_files import write_embeddings
from avmae_jax.weights.tensor_files import require_new
from launch.common import model_flags, runtime


def counted(parts: Iterable[Part], total: int, on_progress: OnProgress) -> Iterator[Part]:
    """The same parts, while a bar follows them."""
    done = 0
    on_progress(0, 0, total)
    for part in parts:
        done += len(part.ids)
        on_progress(done, 0, total)
        yield part


def main(argv: list[str]) -> None:
    """Embeds the clips of one data set."""
    args = flags.FLAGS
    if len(argv) != 2 or not args.out:
        raise app.UsageError("give one model, and --out, the file to write")
    runtime.start()
    runtime.cache_programs()
    try:
        what = kinds_of(args.what)
        require_new(args.out)
        trained = model_flags.load(argv[1])
        source = model_flags.open_clips(argv[1], needs_of(what))
        note = note_of(trained, source, what, data=model_flags.data_name(argv[1]), split=args.split)
        with runtime.progress_bar("embedding") as on_progress:
            parts = Embed(trained, what, args.batch_size)(source)
            count = write_embeddings(args.out, counted(parts, len(source), on_progress), note)
    except model_flags.USER_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"wrote {args.out}: {', '.join(what)} of {count} clips, {note['width']} numbers each")


def define_flags() -> None:
    """Its options."""
    model_flags.define_model_flags()
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "the file to write, .npz or .array_record")
    flags.DEFINE_list("what", list(KINDS), "kinds of vector: of the sound, of the picture, of both together")
    flags.DEFINE_integer("batch_size", 32, "clips computed at once", lower_bound=1)


if __name__ == "__main__":
    flags.FLAGS.set_gnu_getopt()  # options may follow the model
    define_flags()
    app.run(main)
