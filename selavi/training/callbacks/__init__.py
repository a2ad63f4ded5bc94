"""What happens around training steps, in the order in which Lightning calls it.

The callbacks stand in the list of the trainer as LabellingCallback, Progress, Poison, Survival, Saving.  Callbacks come
before the module at each hook:

    training begins       the schedule is fixed; the bank gets its first labels, or batch norm
                          sees some clips; first labels are saved; the bar opens
    step
      on_train_batch_start   label     the bank is renewed where the schedule names this step
                             seed      the module draws dropout by (seed, step, rank)
      training_step          step      the loss with the labels of the bank, the gradient
      on_before_optimizer_step  check  the gradient is finite, else the device leaves the step out; then the optimiser
                                       and the rate
      on_train_batch_end     show      the bar
                             check     the loss is finite, and few clips could not be decoded
                             save      every trainer.save_every_s
                             stop      on every process, if one has received a signal, with a checkpoint
      What only the device knows, the host reads in the next step, and at the latest before anything is saved, before a
      labelling and at the end of the epoch (Survival.settle); so the device never waits for the host.
    epoch
      on_train_epoch_end     label     after the last epoch: the labels of the finished model
                             save      the checkpoint, with the label bank; a signal in a labelling saves what was
                                       before it
    training ends         the bar closes; the same after an exception
"""

from selavi.training.callbacks.labelling import LabellingCallback
from selavi.training.callbacks.poison import Poison
from selavi.training.callbacks.progress import Progress
from selavi.training.callbacks.saving import Saving
from selavi.training.callbacks.survival import Survival

__all__ = ["LabellingCallback", "Poison", "Progress", "Saving", "Survival"]
