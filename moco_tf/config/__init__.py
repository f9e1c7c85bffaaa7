"""Configuration: a frozen dataclass tree from YAML and command-line overrides.

jsonargparse does the reading because it types, documents and overrides plain nested
dataclasses as they stand, where Hydra and gin bring a run-time and a DSL of their own,
absl and ml_collections leave nested fields untyped or undocumented, and pydantic has
no command line with YAML.
"""

from moco_tf.config.checks import validate
from moco_tf.config.limits import ConfigError
from moco_tf.config.load import dump, load_config
from moco_tf.config.methods import Method
from moco_tf.config.tree import (
    Augment,
    Config,
    Data,
    Distribution,
    Encoder,
    Monitor,
    Optimizer,
    Train,
)

__all__ = [
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Distribution",
    "Encoder",
    "Method",
    "Monitor",
    "Optimizer",
    "Train",
    "dump",
    "load_config",
    "validate",
]
