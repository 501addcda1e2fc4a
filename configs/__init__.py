"""One file per run; each returns a Config."""
