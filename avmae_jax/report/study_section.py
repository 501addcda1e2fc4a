"""Shows how many labels it takes, as launch.study measured it from a run."""

from avmae_jax.errors import DatasetError
from avmae_jax.evals.learning_curve import PICTURE, STUDY, read_study, summary
from avmae_jax.report.html import image_file, missing, paragraph, table
from avmae_jax.report.run_folder import RunFolder

STUDY_FOLDER = "study"  # of a run, that launch.study writes into
_GIVEN = {"both": "audio and image", "audio": "the audio alone", "image": "the image alone"}  # folders in it


def studies(run: RunFolder) -> str:
    """Shows the picture and the table of each study in the run's folder; "" if there is none."""
    return "".join(_study(run, name) for name in _GIVEN if (run.folder / STUDY_FOLDER / name / STUDY).exists())


def _study(run: RunFolder, given: str) -> str:
    folder = run.folder / STUDY_FOLDER / given
    try:
        head, rows = summary(read_study(folder / STUDY))
    except (DatasetError, OSError) as error:
        return missing(f"{error}.")
    text = f"Given {_GIVEN[given]}, tuned on a few labelled clips of each class and tested on all held-out clips:"
    picture = folder / PICTURE
    drawn = image_file(picture, "Accuracy and mean average precision by the number of labelled clips") if picture.exists() else ""
    return paragraph(text) + drawn + table(head, rows) + paragraph("Mean and standard deviation over the seeds.", soft=True)
