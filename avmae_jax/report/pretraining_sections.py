"""Shows the retrieval and the reconstructions of a pretraining run."""

from collections.abc import Mapping
from typing import Any

from avmae_jax.errors import counted
from avmae_jax.evals import ranking
from avmae_jax.evals.ranking import DIRECTIONS, FIGURES
from avmae_jax.report.html import heading, image_file, missing, paragraph, table, words
from avmae_jax.report.run_folder import RETRIEVAL, RunFolder, group, is_real
from avmae_jax.report.terms import figure, term


def retrieval(run: RunFolder) -> str:
    """Shows the retrieval and its gallery as launch.retrieve wrote them."""
    if run.config["model"].get("modality") in ("audio", "image"):
        return paragraph("A model of one modality can't retrieve the other.")
    gallery = run.folder / RETRIEVAL / "gallery.png"
    if not run.retrieval and not gallery.exists():
        if run.holds_out_none:
            return missing(
                "The run has no held-out clips; its training clips can be searched.", run.command("retrieve", "--split", "train")
            )
        return missing("The retrieval gallery isn't there.", run.command("retrieve"))
    found = run.retrieval
    parts = [_directions(found, group(found, "chance"), found.get("clips"))] if found else []
    if found.get("warning"):
        parts.append(missing(f"{words(found['warning'])}."))
    if found.get("data"):
        per_class = found.get("per_class")
        some = f", {per_class} of each class" if per_class else ""
        text = f"The {words(found.get('split'))} clips of {words(found['data'])}{some}; evaluated: {words(found.get('model'))}."
        parts.append(paragraph(text, soft=True))
    if gallery.exists():
        parts.append(heading("Some of the best, middle and worst searches") + image_file(gallery, _searches_in_words(found)))
    else:
        parts.append(missing("gallery.png isn't there.", run.command("retrieve")))
    return "".join(parts)


def summarised_retrieval(found: Mapping[str, Any]) -> str:
    """Shows the retrieval that launch.pretrain evaluates at its end, from summary.json."""
    clips = found.get("clips")
    chance = ranking.chance(clips) if is_real(clips) and clips > 0 else {}
    return _directions(ranking.nested_figures(found), chance, clips)


def _directions(directions: Mapping[str, Any], chance: Mapping[str, Any], clips: Any) -> str:
    """Shows how often audio and image find each other, and what guessing would give."""
    lines = [[name.replace("_", " "), *_ranks(group(directions, name))] for name in DIRECTIONS] + [["guessing", *_ranks(chance)]]
    by_class = {name.replace("_", " "): group(group(directions, name), "class") for name in DIRECTIONS}
    by_class |= {"guessing": group(chance, "class")}
    if any(by_class.values()):
        lines += [[f"{name}, any clip of the class", *_ranks(values)] for name, values in by_class.items()]
    count = counted(clips, "clip") if isinstance(clips, int) else f"{words(clips)} clips"
    text = f"Retrieval among {count}; R@k: the share of queries whose partner is among the first k."
    return paragraph(text) + table(("", *map(term, FIGURES)), lines)


def _ranks(values: Mapping[str, Any]) -> list[str]:
    """Formats FIGURES, R@k in percent."""
    return [words(figure(values, name)) for name in FIGURES]


def _searches_in_words(found: Mapping[str, Any]) -> str:
    """Says what the gallery shows, for those who can't see it."""
    shares = (f"{name.replace('_', ' ')} R@10 {_ranks(group(found, name))[FIGURES.index('r10')]}" for name in DIRECTIONS)
    return f"Audio with the images nearest to it, and images with the audio nearest to them: {', '.join(shares)}"


def last_reconstructions(run: RunFolder) -> str:
    """Shows the reconstructions of the last step that has some."""
    newest = run.newest_reconstructions()
    if newest is None:
        return missing(
            "The run has drawn none; launch.inpaint draws other clips with other masks.",
            run.command("inpaint", "FILE", "--out", "DIR"),
        )
    step, path = newest
    text = f"Held-out clips after step {step:,}"
    return image_file(path, f"{text}: images and spectrograms as given, with most patches hidden, and as the model fills them in", text)
