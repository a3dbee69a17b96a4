# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import random
import time
from contextlib import contextmanager
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .matched_queries import UNMATCHED, check_has_queries, matched_queries

STATE_KEY = 'matching_stability'


@HOOKS.register_module()
class MatchingStabilityHook(Hook):
    """Measures after each epoch how many objects are matched with another query than before.

    An object whose query changes from epoch to epoch is taught to one query after another, which is
    why DETRs learn slowly (`DN-DETR <https://arxiv.org/abs/2203.01305>`_, section 3.2). The hook
    logs two numbers, in the text log, ``scalars.json`` and every other backend of the visualizer:

    * ``matching/instability``: the share of objects whose query changed, in [0, 1].
    * ``matching/published_instability``: the paper's IS, queries whose object changed per image; up
      to twice the objects of an image.

    The images stay the same, and so do their objects (crowds are left out). Predictions are those
    of evaluation, in single precision and without gradients, of the weights that are trained: an
    average of them (EMA) is not what the matching teaches. Costs and identity of a query are those
    of :func:`matched_queries`. The first epoch gives no value. Training with the hook gives the
    same weights as without, to the bit.

    All ranks share the images. The history and the last matching are part of every checkpoint.

    Differs from the published measure: its share counts objects, and where queries are selected the
    token stands for the query.

    Args:
        num_images (int): At most so many images, spread evenly over the data set. Defaults to 500.
        interval (int): Epochs from one matching to the next. Defaults to 1.
        dataloader (dict, optional): Config of another data loader than the one of the validation.
            Its pipeline may resize an image, and change nothing else; its sampler is not used.

    Attributes:
        history (list[dict]): ``epoch`` (counted from 1, as in the log), ``instability`` and
            ``published_instability`` of each comparison.

    Raises:
        ValueError: If an argument is out of its range, there are no images with objects, or they
            are changed in another way than by resizing.
        TypeError: If the detector has no queries or reads its classes from text, or the training
            loop does not count epochs.
    """

    def __init__(
        self, num_images: int = 500, interval: int = 1, dataloader: Optional[dict] = None
    ) -> None:
        if num_images < 1 or interval < 1:
            raise ValueError(
                'MatchingStabilityHook needs num_images and interval of at least 1, but got '
                f'num_images={num_images}, interval={interval}'
            )
        self.num_images = num_images
        self.interval = interval
        self.dataloader = dataloader
        self.history: List[dict] = []
        # epoch (int), objects of each image and query of each object (lists of int)
        self._last: Optional[dict] = None

    def before_train(self, runner: Runner) -> None:
        """Checks model and data with one batch, and takes up the history of a resumed run.

        Args:
            runner (Runner): The runner.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'MatchingStabilityHook compares epochs and needs an EpochBasedTrainLoop, but got '
                f'{type(runner.train_loop).__name__}'
            )
        model = _unwrapped(runner.model)
        check_has_queries(model)
        self._images = FixedImages(self._loader(runner), self.num_images)
        with _preserved_random_state(), _evaluating(model):
            self._images.check(model)
        state = runner.message_hub.runtime_info.get(STATE_KEY, {})
        self.history = list(state.get('history', []))
        self._last = state.get('last')

    def before_train_epoch(self, runner: Runner) -> None:
        """Begins to measure the time of an epoch.

        Args:
            runner (Runner): The runner.
        """
        self._begin = time.monotonic()

    def after_train_epoch(self, runner: Runner) -> None:
        """Matches all objects, and compares.

        Args:
            runner (Runner): The runner.
        """
        epoch = runner.epoch + 1  # as the log counts
        if epoch % self.interval:
            return
        begin = time.monotonic()
        model = _unwrapped(runner.model)
        with _preserved_random_state(), _evaluating(model):
            matched = self._images.match(model)
        counts = [len(queries) for queries in matched]
        current = torch.cat(matched)
        seconds = time.monotonic() - begin
        cost = f'{seconds:.1f} s, {seconds / max(begin - self._begin, 1e-9):.1%} of the epoch'

        # NOTE no tensor: a resumed run loads those of its checkpoint onto the GPU
        last, self._last = self._last, dict(epoch=epoch, counts=counts, queries=current.tolist())
        if last is None:
            runner.logger.info(f'Matched {len(current)} objects, {cost}')
        elif last['counts'] != counts:
            runner.logger.warning(
                'the objects are not those of the matching in the checkpoint: the comparison '
                'begins anew'
            )
        else:
            previous = torch.tensor(last['queries'])
            entry = dict(
                epoch=epoch,
                instability=instability(previous, current),
                published_instability=published_instability(previous, current, counts),
            )
            self.history.append(entry)
            runner.logger.info(
                f'{entry["instability"]:.1%} of {len(current)} objects have another query than '
                f'after epoch {last["epoch"]}, {cost}'
            )
            for name in ('instability', 'published_instability'):
                runner.message_hub.update_scalar(f'matching/{name}', entry[name])
                runner.visualizer.add_scalar(f'matching/{name}', entry[name], step=epoch)
        runner.message_hub.update_info(STATE_KEY, dict(history=self.history, last=self._last))

    def _loader(self, runner: Runner) -> DataLoader:
        if self.dataloader is not None:
            return runner.build_dataloader(self.dataloader, seed=runner.seed)
        if runner.val_loop is None:
            raise ValueError(
                'MatchingStabilityHook needs images with ground truth: give the config a '
                'val_dataloader, or the hook a dataloader'
            )
        return runner.val_dataloader


def instability(previous: Tensor, current: Tensor) -> float:
    """Share of objects that have another query than before.

    Args:
        previous (Tensor): Query of each object, shape (T,), long; -1 for none.
        current (Tensor): The same, later.

    Returns:
        float: In [0, 1]; 0 without objects.

    Raises:
        ValueError: If they are not of the same objects.
    """
    _check_same_objects(previous, current)
    return float((previous != current).float().mean()) if len(current) else 0.0


def published_instability(previous: Tensor, current: Tensor, counts: Sequence[int]) -> float:
    """IS of DN-DETR (equation 2): queries that have another object than before, or one where they
    had none, or none where they had one; the mean over the images.

    Args:
        previous (Tensor): Query of each object, shape (T,), long, image after image; -1 for none.
        current (Tensor): The same, later.
        counts (Sequence[int]): Objects of each image; sums to T.

    Returns:
        float: At least 0, at most twice the objects per image.

    Raises:
        ValueError: If they are not of the same objects.
    """
    _check_same_objects(previous, current)
    image = torch.repeat_interleave(torch.arange(len(counts)), torch.as_tensor(counts))
    changed = previous != current
    # a query is counted once, whether it loses an object, gets one, or both
    queries = torch.cat((previous[changed], current[changed]))
    pairs = torch.stack((image[changed].repeat(2), queries), dim=1)
    return len(pairs[queries != UNMATCHED].unique(dim=0)) / len(counts)


def _check_same_objects(previous: Tensor, current: Tensor) -> None:
    if previous.shape != current.shape:
        raise ValueError(
            'two matchings can be compared if they are of the same objects, but got '
            f'{len(previous)} and {len(current)} of them; match the same images'
        )


class FixedImages:
    """Images and their objects that are the same in every epoch, shared by all ranks.

    Whole batches go to a rank, and the batches do not depend on how many ranks there are: the
    padding of an image, on which the number of a token depends, is always the same.

    Args:
        loader (DataLoader): Its data set, batch size and number of workers are used.
        num_images (int): At most so many images.
    """

    def __init__(self, loader: DataLoader, num_images: int) -> None:
        self.dataset = loader.dataset
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        if not getattr(self.dataset, 'test_mode', True):
            raise ValueError(
                'a data set in training mode may replace an image by another; set test_mode=True '
                'in the data set of MatchingStabilityHook'
            )
        number = min(num_images, len(self.dataset))
        images = np.linspace(0, len(self.dataset) - 1, number).round().astype(int).tolist()
        self.objects = {i: self._objects_of(i) for i in images}
        if not any(len(labels) for _, labels in self.objects.values()):
            raise ValueError(
                f'none of {number} images has an object, so there is nothing to match; raise '
                'num_images, or give MatchingStabilityHook another dataloader'
            )
        size = loader.batch_size or 1
        batches = [images[i : i + size] for i in range(0, len(images), size)]
        self.own_batches = batches[get_rank() :: get_world_size()]
        self.loader = DataLoader(
            self.dataset,
            batch_sampler=self.own_batches,
            num_workers=min(loader.num_workers, len(self.own_batches)),
            collate_fn=pseudo_collate,
            generator=torch.Generator(),  # the global one belongs to the training
        )

    def check(self, detector: nn.Module) -> None:
        """Matches the first batch of this rank, so that what cannot work fails at once."""
        for images in self.own_batches[:1]:
            self._match_batch(detector, images, pseudo_collate([self.dataset[i] for i in images]))

    def match(self, detector: nn.Module) -> List[Tensor]:
        """:func:`matched_queries` of all images, of all ranks, in the order of the data set."""
        found = {}
        for images, batch in zip(self.own_batches, self.loader):
            found.update(zip(images, self._match_batch(detector, images, batch)))
        for others in all_gather_object(found):
            found.update(others)
        return [found[i] for i in self.objects]

    def _match_batch(self, detector: nn.Module, images: List[int], batch: dict) -> List[Tensor]:
        for i, sample in zip(images, batch['data_samples']):
            sample.gt_instances = self._in_input(*self.objects[i], sample.metainfo)
        batch = detector.data_preprocessor(batch, training=False)
        return matched_queries(detector, batch['inputs'], batch['data_samples'])

    def _objects_of(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """Boxes (T, 4) as xyxy in pixels of the original image, and labels (T,)."""
        # NOTE not those of the pipeline, which are in pixels of the original image or of the input
        # depending on where the pipeline loads them
        instances = self.dataset.get_data_info(index).get('instances', [])
        instances = [x for x in instances if not x.get('ignore_flag', 0)]
        boxes = np.array([x['bbox'] for x in instances], dtype=np.float32).reshape(-1, 4)
        return boxes, np.array([x['bbox_label'] for x in instances], dtype=np.int64)

    @staticmethod
    def _in_input(boxes: np.ndarray, labels: np.ndarray, meta: dict) -> InstanceData:
        scale_wh = np.array(meta.get('scale_factor', (1.0, 1.0)), dtype=np.float32)[:2]
        expected_hw = np.array(meta['ori_shape'][:2]) * scale_wh[::-1]
        if np.abs(expected_hw - meta['img_shape'][:2]).max() > 1:
            raise ValueError(
                'MatchingStabilityHook needs images that are resized and nothing else, but an '
                f'image of {meta["ori_shape"]} became {meta["img_shape"]} with a scale factor of '
                f'{tuple(scale_wh.tolist())}; give it a dataloader without padding or cropping'
            )
        return InstanceData(
            bboxes=torch.from_numpy(boxes * np.tile(scale_wh, 2)), labels=torch.from_numpy(labels)
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


@contextmanager
def _evaluating(model: nn.Module):
    """Evaluation mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _preserved_random_state():
    """Whatever is drawn inside, outside the next random numbers are the same."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    # the GPUs of the other ranks are left alone
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
