"""Defines the public calls: load a model, predict and embed with it, save it.

A loaded model is compiled once for each kind of request; later calls reuse it.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from avmae_jax.config import Frames
from avmae_jax.data.clip import SAMPLE_RATE
from avmae_jax.errors import ClipError
from avmae_jax.inference.embed import Embedder
from avmae_jax.inference.file_match import FileMatcher
from avmae_jax.inference.match_over_time import MomentEmbedder, References
from avmae_jax.inference.offset import LONGEST
from avmae_jax.inference.predict import Predictor, open_matcher
from avmae_jax.inference.windows import Medium, of_file, of_parts
from avmae_jax.trees import flatten
from avmae_jax.weights import folder as folders
from avmae_jax.weights import hub, places
from avmae_jax.weights.io import Weights, write
from avmae_jax.weights.notes import notes_of
from avmae_jax.weights.trained import About, Trained, load_trained, placeholders

Media = str | Path
Array = np.ndarray | str | Path


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(Trained):
    """Applies a trained model. Its attributes: module, config, label_names, kind, classes, path, step."""

    def predict(
        self,
        media: Media | Sequence[Media] | None = None,
        *,
        audio: Array | None = None,
        image: Array | None = None,
        sample_rate: int = SAMPLE_RATE,
        top: int = 5,
        frames: Frames = "middle",
        given: str | None = None,
        timeline: bool = False,
        match_with: Media | Trained | None = None,
        unsure_below: float = 0.0,
    ) -> Any:
        """Predicts the classes of media of any length, and whether audio and image belong together.

        Args:
          media: path of a video, an audio file or an image; or a list of paths. Or give the two parts:
          audio: int16, float32 or float64 (in [-1, 1]), [N] or [N, channels], of which those are used that would be of a file; or the path
            of a file with audio.
          image: uint8[H, W, 3], red, green, blue; or the path of a JPEG or PNG. With audio it belongs to every window of it.
          sample_rate: Hz of the array.
          top: number of classes named.
          frames: the "middle" frame of each window, the "first" one, or "all", whose probabilities are averaged; a model of pairs is given
            all of them at once, whatever it is.
          given: what the classifier is given, "both", "audio" or "image"; None: whatever the medium has.
          timeline: compute the probabilities of each second as well, from the window around it.
          match_with: the model for the match, a pretraining checkpoint: fine-tuning needn't keep what contrastive learning has aligned.
          unsure_below: a class that is less probable is not named; where none is left, the answer is "unsure".

        Returns:
          A Prediction; for a list of paths the predictions in order, with the error in place of that of a file that can't be read.

        Raises:
          ValueError: if nothing or too much is given, an array isn't as described, or the model can't do what is requested.
          ClipError: if a single file can't be read, or lacks what the model needs.
          WeightsError: if the model for the match can't be read.
        """
        if isinstance(match_with, str | Path):  # loaded anew, since the file may have changed, and not kept
            predictor = Predictor(self, match_with=open_matcher(self, match_with), given=given)
        else:
            predictor = _predictor(self, match_with, given)
        options: Any = {"top": top, "frames": frames, "timeline": timeline, "unsure_below": unsure_below}
        return _apply(lambda many: predictor(many, **options), media, audio, image, sample_rate)

    def embed(
        self,
        media: Media | Sequence[Media] | None = None,
        *,
        audio: Array | None = None,
        image: Array | None = None,
        sample_rate: int = SAMPLE_RATE,
        frames: Frames = "middle",
    ) -> Any:
        """Computes vectors of media of any length, for search and for classifiers of your own.

        Args:
          media: path of a video, an audio file or an image; or a list of paths. Or give the two parts:
          audio: int16, float32 or float64 (in [-1, 1]), [N] or [N, channels], of which those are used that would be of a file; or the path
            of a file with audio.
          image: uint8[H, W, 3], red, green, blue; or the path of a JPEG or PNG. With audio it belongs to every window of it.
          sample_rate: Hz of the array.
          frames: the "middle" frame of each window, the "first" one, or "all", whose vectors are averaged, as those of all pairs are in a
            model of pairs, whatever it is.

        Returns:
          An Embedding; for a list of paths the embeddings in order, with the error in place of that of a file that can't be read.

        Raises:
          ValueError: if nothing or too much is given, an array isn't as described, or the model computes no such vectors.
          ClipError: if a single file can't be read.
        """
        embedder = _embedder(self)
        return _apply(lambda many: embedder(many, frames), media, audio, image, sample_rate)

    def match_timeline(
        self,
        media: Media | Sequence[Media],
        *,
        rate: float | None = None,
        longest_offset: float = LONGEST,
        others: Mapping[str, np.ndarray] | None = None,
        heat: bool = False,
    ) -> Any:
        """Finds how well audio and image of video files match in each second, and by how many seconds the two are apart.

        Args:
          media: path of a video, or a list of paths.
          rate: images a second that are compared; None: as many as launch.sync_check fitted the certainty of offsets to, or 4.
          longest_offset: seconds by which audio and image may be apart.
          others: vectors of other clips by the same model, "audio" and "image", [N, D] or of their pairs [N, F, D], among which each second
            is ranked; None: it is ranked among other moments of the file alone.
          heat: also compute which patches of each image are most like the audio, `vectors.heat`.

        Returns:
          A FileMatch, with the offset that launch.sync_check has calibrated if it was run; for a list of paths the matches in order, with
          the error in place of that of a file that can't be used.

        Raises:
          ValueError: if the model's audio and images can't be compared, a number isn't as described, or `others` are too few.
          ClipError: if a single file can't be read, lacks audio or images, or is too short.
          DatasetError: if what launch.sync_check wrote can't be read, or belongs to other weights.
        """
        matcher = FileMatcher(_moment_embedder(self, heat), None if others is None else References.of(others))
        if isinstance(media, str | Path):
            return matcher(media, rate=rate, longest=longest_offset)
        found = []
        for path in media:
            try:
                found.append(matcher(path, rate=rate, longest=longest_offset))
            except ClipError as error:
                found.append(error)
        return found

    def save(self, path: str | Path) -> None:
        """Writes the model to a new .pth or .safetensors file, or without such a suffix to a folder of checkpoints.

        Raises:
          WeightsError: if the path exists or can't be written, or the kind of model can't be stored so; nothing is left there then.
        """
        write(self._weights(), path)

    def save_pretrained(self, folder: str | Path, *, license: str = "") -> None:  # noqa: A002 - the hub's own word
        """Writes the model to a new folder that anybody can load: model.safetensors, config.json, and README.md, its card.

        Args:
          folder: the new folder. The card tells what the run or the pretrained folder says that the model was loaded from: data, training,
            measurements.
          license: of the weights, as a hub spells it: apache-2.0, cc-by-4.0; "": as that pretrained folder says, or else unknown.

        Raises:
          WeightsError: if the folder exists or can't be written, or there is no such license; nothing is left there then.
        """
        folders.save(self._weights(), folder, self.path, license=license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str = "",  # noqa: A002
        private: bool | None = None,
        branch: str = "",
        commit_message: str = "Add the model",
    ) -> str:
        """Writes the model into a repository of a hub, by the extra `hub`, with the token of its environment; returns the commit's address.

        Args:
          repo_id: "owner/name"; created if there is none.
          license: as of save_pretrained.
          private: of a new repository; None: as the owner has set it.
          branch: "": the main one.
          commit_message: of the commit.

        Raises:
          WeightsError: if huggingface_hub isn't installed, or the hub refuses.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            folders.save(self._weights(), folder, self.path, name=repo_id, license=license)
            return hub.push(folder, repo_id, private=private, branch=branch, message=commit_message)

    def _weights(self) -> Weights:
        params = {name: np.asarray(leaf, np.float32) for name, leaf in flatten(nnx.state(self.module, nnx.Param)).items()}
        names = () if self.label_names == placeholders(self.classes) else self.label_names
        notes = notes_of(self.config, names, self.calibration)
        return Weights(self.config.model, self.classes, params, notes, self.step, facts=self.facts)


def load(
    path: str | Path,
    *,
    labels_csv: str | Path = "",
    tuned_loss: str = "",
    tuned_mode: str = "",
    audio_frames: int | None = None,
    compute_dtype: str = "float32",
    revision: str = "",
    cache_dir: str | Path = "",
    local_files_only: bool = False,
    **sizes: int,
) -> Model:
    """Loads a trained model.

    Args:
      path: a run's folder, its best/, averaged/, ema/ or one step; a file (.pth, .pt, .bin, .ckpt, .safetensors) of a CAV-MAE, pretrained
        or fine-tuned, of an image MAE with its decoder, or of an AST; a folder of save_pretrained, or the id of
        one on a hub, "owner/name", where there is no such path; or "instruments12", the model in the box.
      labels_csv: names of a classifier's classes, with the columns index,mid,display_name, in place of those stored in the file.
      tuned_loss: of a classifier's training, which a .pth doesn't store: "bce" for several classes a clip, as the original's of AudioSet
        and the default, or "ce" for exactly one, as those of VGGSound.
      tuned_mode: of a classifier's training, which a .pth doesn't store: "multimodal", the default, "audioonly" or "videoonly".
      audio_frames: length of the audio that the model shall take, in frames of 10 ms and a multiple of the patch: 96, 400 or 3008 for 1, 4
        or 30 s. Positions are interpolated along time. None: as in the file.
      compute_dtype: of matrix products: "float32", which gives the same answers everywhere, whatever the model was trained in; "bfloat16",
        several times faster on GPUs and TPUs that have it; or "auto", bfloat16 where the devices have it.
      revision: of a model on a hub, a branch, a tag or a commit; "": the main branch.
      cache_dir: where models of a hub are kept; "": as huggingface_hub does. It takes its token from its own environment, too.
      local_files_only: take a model of a hub from there alone, as with HF_HUB_OFFLINE=1.
      **sizes: heads, decoder_heads, mel_bins, for files that don't store them.

    Raises:
      WeightsError: if the file can't be read or fetched, or belongs to another model; names the file and what is wrong.
      DatasetError: if the names can't be read.
    """
    about = About(labels_csv, tuned_loss, tuned_mode)
    place = places.located(path, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    found = load_trained(place, about=about, audio_frames=audio_frames, compute_dtype=compute_dtype, **sizes)
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return Model(**{**values, "path": str(path)})


def predict(model: str | Path | Model, media: Media | Sequence[Media] | None = None, **options: Any) -> Any:
    """Predicts with a loaded model or the path of one, which is loaded and compiled anew by each call; options as of Model.predict."""
    return (model if isinstance(model, Model) else load(model)).predict(media, **options)


def embed(model: str | Path | Model, media: Media | Sequence[Media] | None = None, **options: Any) -> Any:
    """Computes vectors with a loaded model or the path of one, which is loaded anew by each call; options as of Model.embed."""
    return (model if isinstance(model, Model) else load(model)).embed(media, **options)


@functools.lru_cache(maxsize=4)  # compiled functions of the models that were used last
def _predictor(model: Trained, match_with: Trained | None, given: str | None) -> Predictor:
    return Predictor(model, match_with=match_with, given=given)


@functools.lru_cache(maxsize=4)
def _embedder(model: Trained) -> Embedder:
    return Embedder(model)


@functools.lru_cache(maxsize=4)
def _moment_embedder(model: Trained, heat: bool) -> MomentEmbedder:
    return MomentEmbedder(model, heat=heat)


def _apply(function: Callable[[list[Medium]], Any], media: Media | Sequence[Media] | None, audio: Any, image: Any, sample_rate: int) -> Any:
    """Applies a function of many media to one medium, whose error is raised, or to a list of paths, whose errors are returned."""
    if media is None:
        return _only(function([of_parts(audio, image, sample_rate)]))
    if audio is not None or image is not None:
        raise ValueError("give a media file, or audio and image, not both")
    if isinstance(media, str | Path):
        return _only(function([of_file(media)]))
    if isinstance(media, np.ndarray) or not all(isinstance(path, str | Path) for path in media):
        raise ValueError(
            f"media is a {type(media).__name__}; give the path of a file or a list of paths here, and arrays as audio and image"
        )
    results = dict(function([of_file(path) for path in media]))
    return [results[number] for number in range(len(results))]


def _only(results: Any) -> Any:
    ((_, result),) = results
    if isinstance(result, Exception):
        raise result
    return result
