"""Runs: planned by the session, trained by a detached worker, watched by anybody."""
