"""Defines a job of writing a data set, and its failure. Lists of files need these alone, and no library that writes."""

from typing import NamedTuple


class Job(NamedTuple):
    """Names one file to make clips of."""

    id: str  # unique; failures are reported under it, and its clips have it or begin with it
    args: tuple = ()  # what `make` needs besides; becomes part of the plan, therefore of JSON's types


class Failure(NamedTuple):
    """Says why a job gave no clip."""

    file: str  # the job's id
    # ClipError.stage; "error": whatever else reading it raised; "crash": the process that worked on it died; "missing": there was no file;
    # "list": its line in a list can't be used
    stage: str
    reason: str
