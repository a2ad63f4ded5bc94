"""What happens around training steps, in the order in which Lightning calls it.

The callbacks stand in the list of the trainer as Survival, LabellingCallback, Progress, and last Lightning's own
for checkpoints.  Callbacks come before the module at each hook:

    training begins       signals are taken over; the schedule is fixed; the bank gets its first labels, or batch norm
                          sees some clips; the bar opens
    step
      on_train_batch_start   label     the bank is renewed where the schedule names this step
                             seed      the module draws dropout by (seed, step, rank)
      training_step          step      the loss with the labels of the bank, the gradient, the optimiser, the rate
      on_train_batch_end     stop      on every process, if one has received a signal
                             check     the loss is finite, and few clips could not be decoded
                             show      the bar
    epoch
      on_train_epoch_end     label     after the last epoch: the labels of the finished model
                             save      the checkpoint, with the label bank
    training ends         signals are given back, the bar closes; the same after an exception
"""

from selavi.training.callbacks.labelling import LabellingCallback
from selavi.training.callbacks.progress import Progress
from selavi.training.callbacks.survival import Survival

__all__ = ["LabellingCallback", "Progress", "Survival"]
