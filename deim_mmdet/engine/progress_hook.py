# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import atexit
import logging
import sys
import time
from itertools import chain
from typing import Dict, Optional, Tuple

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook


@HOOKS.register_module()
class RichProgressHook(Hook):
    """Show how far training is: time left, losses, learning rate, and each evaluation's AP.

    On a terminal a bar that stays at the bottom, elsewhere (a log file, a pipe) a line now and
    then.

    Args:
        every (float): Seconds between two lines where there is no terminal. Defaults to 10.
        quiet (bool): Whether the console shows nothing else below a warning while training runs;
            the log file keeps it all. Defaults to True.
    """

    # After the hooks that record losses, learning rate and metrics.
    priority = 'VERY_LOW'

    def __init__(self, every: float = 10.0, quiet: bool = True) -> None:
        self.every = every
        self.quiet = quiet
        self._bar = None

    def before_train(self, runner) -> None:
        self._active = is_main_process()
        if not self._active:
            return
        self._start_time = self._last_time = time.monotonic()
        self._start_iter = runner.iter
        self._epoch_length = len(runner.train_dataloader)
        if sys.stdout.isatty():
            self._open_bar(runner)
        self._hush(runner)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None
    ) -> None:
        if not self._active:
            return
        now = time.monotonic()
        done = runner.iter + 1
        pause = 0.2 if self._bar else self.every
        if done < runner.max_iters and now - self._last_time < pause:
            return
        self._last_time = now
        left = (now - self._start_time) / (done - self._start_iter) * (runner.max_iters - done)
        scalars = runner.message_hub.log_scalars
        rates = runner.optim_wrapper.get_lr()
        # the group of the backbone may be slower; base_lr is without the scaling to the batch size
        rate = max(chain(*(r for name, r in rates.items() if not name.endswith('base_lr'))))
        state = (
            f'epoch {runner.epoch + 1}/{runner.max_epochs}  step '
            f'{batch_idx + 1}/{self._epoch_length}'
        )
        total, terms = describe_losses(scalars)
        text = f'{total}  lr {rate:.2g}  {terms}'  # a narrow terminal cuts off its end
        if self._bar:
            self._bar.update(
                self._task, completed=done, state=state, left=format_seconds(left), text=text
            )
        else:
            print(f'{state}  {format_seconds(left)} left  {text}', flush=True)

    def before_val_epoch(self, runner) -> None:
        if self._bar:
            self._bar.update(self._task, state='evaluating')
            self._bar.refresh()

    def after_val_epoch(self, runner, metrics: Optional[Dict[str, float]] = None) -> None:
        if not getattr(self, '_active', False) or not metrics:
            return
        names = {'coco/bbox_mAP': 'AP', 'coco/bbox_mAP_50': 'AP50'}
        shown = {name: metrics[key] for key, name in names.items() if key in metrics} or metrics
        text = '  '.join(
            f'{key} {value:.3f}' for key, value in shown.items() if isinstance(value, float)
        )
        print(f'evaluated after epoch {runner.epoch}: {text}', flush=True)

    def after_train(self, runner) -> None:
        self._close()

    def _open_bar(self, runner) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn('{task.fields[state]}'),
            BarColumn(bar_width=16),
            TextColumn('{task.percentage:.0f} %  {task.fields[left]} left  {task.fields[text]}'),
        )
        self._task = self._bar.add_task(
            '', total=runner.max_iters, completed=runner.iter, state='starting', left='?', text=''
        )
        self._bar.start()
        # A crash must not leave the terminal without a cursor.
        atexit.register(self._close)

    def _hush(self, runner) -> None:
        """Send console logs through the bar (rich has put itself in the place of
        ``sys.stdout``)."""
        self._handlers = []
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                self._handlers.append((handler, handler.stream, handler.level))
                if self._bar:
                    handler.setStream(sys.stdout)
                if self.quiet:
                    handler.setLevel(max(handler.level, logging.WARNING))

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
            atexit.unregister(self._close)
        for handler, stream, level in getattr(self, '_handlers', ()):
            handler.setStream(stream)
            handler.setLevel(level)
        self._handlers = []
        self._active = False


def describe_losses(scalars: dict) -> Tuple[str, str]:
    """The total loss, and the sum of each term over layers and denoising queries, as text.

    Args:
        scalars (dict[str, HistoryBuffer]): Scalars of mmengine's message hub; those named
            'train/*loss*' are read, as means over the last ten iterations. ``d0.loss_bbox`` and
            ``dn_loss_bbox`` are both of the term bbox.
    """
    terms: Dict[str, float] = {}
    for key, history in scalars.items():
        name = key.split('/', 1)[-1]
        if key.startswith('train/') and 'loss_' in name:
            term = name.rsplit('loss_', 1)[1]
            terms[term] = terms.get(term, 0.0) + float(history.mean(10))
    total = scalars['train/loss'].mean(10) if 'train/loss' in scalars else sum(terms.values())
    # Adding 0.0 turns -0.0 into 0.0.
    parts = ', '.join(f'{term} {round(value, 2) + 0.0:.2f}' for term, value in terms.items())
    return f'loss {total:.2f}', f'({parts})' if parts else ''


def format_seconds(seconds: float) -> str:
    """65 -> '1:05', 3725 -> '1:02:05'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
