"""Tests avmae_jax/train/allocator.py: memory that is freed and needed again."""

import platform
import subprocess
import sys

import pytest

_FAULTS_OF_SECOND_BLOCK = """
import resource, sys
import numpy as np
from avmae_jax.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    return int(subprocess.run([sys.executable, "-c", _FAULTS_OF_SECOND_BLOCK, mode], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is set")
@pytest.mark.process
def test_freed_memory_is_reused_without_page_faults():
    """A block of 64 MiB has 16,384 pages, or 32 huge ones where the system gives those."""
    assert faults("keep") < 10 < faults("give back")
