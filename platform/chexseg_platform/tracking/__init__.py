"""The one door to MLflow.

`open_tracker` gives a tracker whose runs are logged to through `RunRef`; only `sender` and `upload`
import MLflow, and only inside functions. What is logged waits in a journal until the
store has it, so a server that is down costs nothing but patience.
"""

from chexseg_platform.tracking.pages import ui
from chexseg_platform.tracking.sender import StoreAway, journals, open_tracker, replay
from chexseg_platform.tracking.stores import store_uri
from chexseg_platform.tracking.tracker import RunRef, Tracker

__all__ = [
    "RunRef",
    "StoreAway",
    "Tracker",
    "journals",
    "open_tracker",
    "replay",
    "store_uri",
    "ui",
]
