"""Serves the page of launch.demo on a Space, for the model that the variable MODEL names, or else for the one in the box."""

import os
import sys

model = [os.environ["MODEL"]] if os.environ.get("MODEL") else []
program = [sys.executable, "-m", "avmae_jax.cli", "demo", *model, "--host=0.0.0.0", f"--port={os.environ.get('PORT', '7860')}"]
os.execv(program[0], program)  # noqa: S606 - no shell
