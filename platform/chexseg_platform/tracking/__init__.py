"""The one door to MLflow.

`open_tracker` gives a tracker whose runs are logged to through `RunRef`; only `sender`, `runs` and
`upload` import MLflow, and only inside functions. What is logged waits in a journal until the
store has it, so a server that is down costs nothing but patience.
"""

from chexseg_platform.tracking.pages import ui
from chexseg_platform.tracking.runs import Page, Tracked, run_pages, tracked
from chexseg_platform.tracking.sender import StoreAway, journals, open_tracker, replay
from chexseg_platform.tracking.stores import store_uri
from chexseg_platform.tracking.tracker import RunRef, Tracker

__all__ = [
    "Page",
    "RunRef",
    "StoreAway",
    "Tracked",
    "Tracker",
    "journals",
    "open_tracker",
    "replay",
    "run_pages",
    "store_uri",
    "tracked",
    "ui",
]
