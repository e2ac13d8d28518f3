"""Stages on Ray; the only package, beside `cluster`, that knows it."""

import os

if not os.environ.get("RAY_ADDRESS"):
    # Ray's own switch between "reachable from other machines" and "loopback only", for a cluster
    # that is started here. Read when ray is imported, hence its place.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
