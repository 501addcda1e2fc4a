"""Writes embeddings of the clips of a data set to a file.

    python -m launch.embed MODEL --out FILE [--data DATASET --split test --what audio,image,joint]

MODEL is a run, its best/, averaged/, ema/, or a file of weights, of a CAV-MAE or its classifier. FILE ends in .npz or .array_record;
avmae_jax/inference/embedding_files.py describes its content. It is written while clips are computed and gets its name once it is complete;
existing files are never overwritten. Audio that is longer than the model's is covered by windows, whose vectors are averaged. Without
--data the clips are those of the model's run.
"""

from absl import app, flags

from .common import cli, kept_programs, model_flags, runtime


def main(argv: list[str]) -> None:
    """Embeds the clips of one data set."""
    args = flags.FLAGS
    if len(argv) != 2 or not args.out:
        raise app.UsageError("give one model, and --out, the file to write")
    runtime.start()
    kept_programs.cache_programs()
    from avmae_jax.inference.embed import DatasetEmbedder, counted, kinds_of, needs_of, note_of
    from avmae_jax.inference.embedding_files import write_embeddings
    from avmae_jax.weights.tensor_files import require_new

    with model_flags.one_line_errors():
        what = kinds_of(args.what)
        require_new(args.out)
        trained = model_flags.load(argv[1])
        source = model_flags.open_clips(argv[1], needs_of(what))
        embed = DatasetEmbedder(trained, what, args.batch_size, args.frames)
        frames, data = embed.pairs_of(source), model_flags.data_name(argv[1])
        note = note_of(trained, source, what, frames=frames, data=data, split=args.split)
        with runtime.progress_bar("embedding") as on_progress:
            count = write_embeddings(args.out, counted(embed(source), len(source), on_progress), note)
    each = f" of {frames} frames" if frames else ""
    print(f"wrote {args.out}: {', '.join(what)}{each} of {count} clips, {note['width']} numbers each")


def define_flags() -> None:
    """Defines the options of this program."""
    model_flags.define_model_flags(classes=False)
    model_flags.define_data_flags()
    flags.DEFINE_string("out", "", "the file to write, .npz or .array_record")
    flags.DEFINE_list("what", ["audio", "image", "joint"], "kinds of vector: of the audio, of the image, of both together")
    words = "one: a vector of each clip, by its middle frame; all: one of each frame; left out: all for CAV-MAE Sync, one for CAV-MAE"
    flags.DEFINE_enum("frames", None, ["one", "all"], words)
    flags.DEFINE_integer("batch_size", 32, "clips computed at once", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags, __doc__)
