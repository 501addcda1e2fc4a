"""Registers TFDS builders of the data sets that launch.prepare knows, and of the built-in one.

    builder = AvFolder(root="videos", data_dir="data")
    builder.download_and_prepare(file_format="array_record")
    builder.info.metadata["label_names"], builder.info.splits["train"].num_examples, builder.as_data_source("train")[0]

Nothing is downloaded: the media lie in `root`. Importing this module registers the names, for `tfds.builder("av_folder", root=...)`.

The shards are written by data/store/writer.py, not by TFDS, whose writer begins again when it was killed, ends when a codec crashes,
refuses a split in which everything failed, and doesn't record failures. So `builder.data_dir` is a folder like launch.prepare's, a path for
data.path. No TensorFlow is needed.
"""

import abc
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from avmae_jax.config import DataConfig
from avmae_jax.data.catalog import listings
from avmae_jax.data.catalog.listings import Listing
from avmae_jax.data.catalog.recipe import Recipe, spec_of
from avmae_jax.data.instruments.builtin_set import builtin_spec
from avmae_jax.data.store.beam import beam_engine
from avmae_jax.data.store.plan import VERSION, DatasetSpec
from avmae_jax.data.store.records import FEATURES
from avmae_jax.data.store.writer import write_dataset
from avmae_jax.errors import DatasetError

_FILE = str | Path


class _ClipBuilder(FileReaderBuilder, skip_registration=True):
    """Builds a TFDS data set whose shards our own writer writes."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, workers: int | None = None, shard_size: int = 256, **options: Any) -> None:
        """Takes the processes, one a processor if None; the jobs a shard; and data_dir, version and file_format of TFDS."""
        super().__init__(**{"file_format": "array_record", **options})
        self._workers, self._shard_size = len(os.sched_getaffinity(0)) if workers is None else workers, shard_size

    @abc.abstractmethod
    def _spec(self) -> DatasetSpec:
        """Finds out which clips there are; name and shard_size are the builder's."""

    def download_and_prepare(  # pyright: ignore[reportIncompatibleVariableOverride] - TFDS's is wrapped
        self,
        *,
        download_dir: Any = None,
        download_config: tfds.download.DownloadConfig | None = None,
        file_format: Any = None,
        permissions: Any = None,
    ) -> None:
        """Writes the data set, or continues where a killed run stopped; one that is complete is left as it is.

        Args:
          download_dir: ignored; nothing is downloaded.
          download_config: its download_mode says whether to write over a data set; its beam_runner and beam_options go to beam_engine.
          file_format: "array_record".
          permissions: ignored; the system's apply.

        Raises:
          DatasetError: if something is wrong with the lists or the folders, or the data set there is another one.
        """
        del download_dir, permissions
        form = tfds.core.FileFormat.from_value(file_format or self.info.file_format or "array_record")
        if form is not tfds.core.FileFormat.ARRAY_RECORD:
            raise DatasetError(f"{self.name}: the file format is {form.value}; it must be array_record")
        config = download_config or tfds.download.DownloadConfig()
        if config.download_mode.overwrite_dataset:
            shutil.rmtree(self.data_dir, ignore_errors=True)
        self._download_and_prepare(None, config)
        self.info.read_from_directory(self.data_dir)

    def _download_and_prepare(self, dl_manager: Any, download_config: tfds.download.DownloadConfig | None = None) -> None:
        config = download_config or tfds.download.DownloadConfig()
        summary = write_dataset(
            self.data_dir,
            dataclasses.replace(self._spec(), name=self.name, shard_size=self._shard_size),
            workers=self._workers,
            engine=beam_engine(config.beam_runner, config.beam_options or ()) if config.beam_runner or config.beam_options else None,
        )
        logging.info("%s: %s clips, %d failures", self.data_dir, summary.clips, len(summary.failures))

    def __reduce__(self) -> tuple[Any, ...]:
        """Gives reader processes a builder that reads what was written."""
        return tfds.builder_from_directory, (self.data_dir,)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=FEATURES, description=type(self).__doc__, metadata=tfds.core.MetadataDict(), disable_shuffling=True
        )


class _ListedBuilder(_ClipBuilder, skip_registration=True):
    """Builds a data set of files that a listing names.

    All such builders take `root`, the folder of media, `recipe`, how a file becomes clips, and the arguments of _ClipBuilder.
    """

    def __init__(self, list_clips: Callable[[Path], Listing], *, root: _FILE, recipe: Recipe | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._list_clips, self._root, self._recipe = list_clips, Path(root).expanduser().resolve(), recipe or Recipe()

    def _spec(self) -> DatasetSpec:
        listing = self._list_clips(self._root)
        spec, left_out = spec_of(listing, self._root, self._recipe)
        counts = len(listing.ignored), len(listing.unused), len(left_out)
        logging.info("%s: %d files are no media, %d of no clip that is used, %d lack audio or images", self._root, *counts)
        return spec


class AvFolder(_ListedBuilder):
    """Builds a data set of every media file under a folder: root/<class>/<any depth>/<file>, or flat, or labelled by a CSV file."""

    def __init__(self, *, labels: _FILE = "", is_test: Callable[[str], bool] | None = None, test_percent: int = 10, **options: Any) -> None:
        list_clips = functools.partial(listings.av_folder, labels=labels, is_test=is_test, test_percent=test_percent)
        super().__init__(list_clips, **options)


class Audioset(_ListedBuilder):
    """Builds AudioSet: the clips of its lists of segments that lie under root; takes the arguments of listings.audioset."""

    def __init__(self, *, segments: Mapping[str, Sequence[_FILE]], labels_csv: _FILE, **options: Any) -> None:
        super().__init__(functools.partial(listings.audioset, segments, labels_csv), **options)


class Vggsound(_ListedBuilder):
    """Builds VGGSound: the clips of its list that lie under root; takes the arguments of listings.vggsound."""

    def __init__(self, *, csv_file: _FILE, labels_csv: _FILE, **options: Any) -> None:
        super().__init__(functools.partial(listings.vggsound, csv_file, labels_csv), **options)


class MusicInstruments(_ListedBuilder):
    """Builds a data set of musical instruments, out of one of the other data sets or from one that has nothing else.

    Args:
      kind: audioset or vggsound, of which the clips and labels are taken that are instruments; vgginstruments or music21, with their lists;
        av_folder for folders named after instruments, as Solos is usually stored.
      lists: the arguments of the function of that name in listings, other than root.
    """

    def __init__(
        self, *, kind: Literal["audioset", "vggsound", "vgginstruments", "music21", "av_folder"], lists: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(functools.partial(_list_instruments, kind, lists), **options)


class BuiltinInstruments(_ClipBuilder):
    """Builds the built-in set: generated images and audio of instruments; config's builtin_ fields say how many and which."""

    def __init__(self, *, config: DataConfig | None = None, **options: Any) -> None:
        super().__init__(**{"shard_size": 100, **options})
        self._config = config or DataConfig()

    def _spec(self) -> DatasetSpec:
        return builtin_spec(self._config)


def _list_instruments(kind: str, lists: Mapping[str, Any], root: Path) -> Listing:
    listing = getattr(listings, kind)(**lists, root=root)
    return listings.only_instruments(listing, kind) if kind in ("audioset", "vggsound") else listing
