"""Which options launch.demo refuses before it loads anything."""

import pytest

from tests.support import Program


@pytest.mark.parametrize("option", ["max_seconds=inf", "max_computing=nan", "max_seconds=-1", "max_mb=0", "max_mb=inf", "port=70000"])
def test_a_limit_that_is_no_limit_is_refused_in_a_line(program: Program, option: str) -> None:
    done = program("-m", "launch.demo", f"--{option}")
    assert done.returncode == 1
    assert option.split("=", maxsplit=1)[0] in done.stderr
    assert "Traceback" not in done.stderr
