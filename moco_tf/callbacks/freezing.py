"""Stages of the encoder that stay as they are for some epochs, or for all."""

from __future__ import annotations

import logging

from tensorflow import keras

from moco_tf.encoders.stages import stage_layers

log = logging.getLogger("moco_tf")


class FrozenStages(keras.callbacks.Callback):
    """Freezes the backbone's first stages, the key encoder's too, and lets them go.

    A frozen layer is out of the optimiser's list, so that neither gradients nor weight
    decay move it, and its batch norm normalises by its running statistics, which stay.
    A momentum encoder's, which start equal, stay as well. When `fit` ends all are as
    they were, since Keras begins another `fit` with the layers as they were compiled.

    Args:
        stages: how many, see `stage_layers`.
        epochs: after which they learn; None: never.
    """

    def __init__(self, stages: int, epochs: int | None = None):
        super().__init__()
        self.stages, self.epochs = stages, epochs
        self._held: list[keras.layers.Layer] | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Begins anew: Keras has set the layers as they were compiled."""
        self._held = None

    def on_train_end(self, logs: dict | None = None) -> None:
        """Leaves the layers as it found them."""
        self._release()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Freezes them in the first epoch, also of a run that goes on; lets them go."""
        is_frozen = self.epochs is None or epoch < self.epochs
        if is_frozen and self._held is None:
            self._freeze()
        elif not is_frozen and self._held:
            log.info("From here on the frozen stages learn as well.")
            self._release()

    def _release(self):
        for layer in self._held or ():
            layer.trainable = True
        if self._held:
            self._trace_again()
        self._held = []

    def _freeze(self):
        names = stage_layers(self.model.encoder, self.stages)
        layers = self.model.backbone_layers(names)
        # Some are no part of training by nature, such as a ViT's patches.
        self._held = [layer for layer in layers if layer.trainable]
        for layer in self._held:
            layer.trainable = False
        self._trace_again()

    def _trace_again(self):
        # A step that was traced has the layers as they were.
        self.model.make_train_function(force=True)
