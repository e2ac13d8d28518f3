"""The settings of an experiment, typed and strict: what it is, apart from where it runs.

Everything except `resources` decides results and so enters fingerprints; `resources` says where
and how an experiment runs. `configfile` reads these sections from YAML.
"""

from chexseg_platform.config.base import ConfigError, Fraction, Section, Seed
from chexseg_platform.config.data import Collection, CollectionLayout, Data, Phantom, Table
from chexseg_platform.config.experiment import (
    OBJECT_STORE_BYTES,
    SWEPT,
    Evaluation,
    Experiment,
    Resources,
    Tune,
    swept_field,
)
from chexseg_platform.config.finetuning import Family, Finetune, Pretrain, Task
from chexseg_platform.config.saliency import (
    CaptumMethod,
    Integrated,
    IRNet,
    Saliency,
    SaliencyMethod,
)
from chexseg_platform.config.training import Augment, Classifier, Fit, Segmenter

__all__ = [
    "OBJECT_STORE_BYTES",
    "SWEPT",
    "Augment",
    "CaptumMethod",
    "Classifier",
    "Collection",
    "CollectionLayout",
    "ConfigError",
    "Data",
    "Evaluation",
    "Experiment",
    "Family",
    "Finetune",
    "Fit",
    "Fraction",
    "IRNet",
    "Integrated",
    "Phantom",
    "Pretrain",
    "Resources",
    "Saliency",
    "SaliencyMethod",
    "Section",
    "Seed",
    "Segmenter",
    "Table",
    "Task",
    "Tune",
    "swept_field",
]
