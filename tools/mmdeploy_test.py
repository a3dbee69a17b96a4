# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""AP of what tools/mmdeploy_convert.py made, by mmdeploy.

    python tools/mmdeploy_test.py DEPLOY_CONFIG CONFIG --model FILE

For those who have mmdeploy from pip, without its tools/test.py; that one does the same, with the
same arguments.
"""

import argparse
import os

from command_line import (
    errors_in_one_line,
    refuse_folder,
    refuse_missing_files,
    refuse_missing_packages,
    refuse_other_configs,
    silence_mmdeploy,
)
from mmengine.config import DictAction


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('deploy_config', help='the one that the model was made by')
    parser.add_argument('config', help='config with the test set')
    parser.add_argument(
        '--model', nargs='+', required=True, help='file that was made; for the SDK its folder'
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0')
    parser.add_argument('--work-dir', default='work_dirs/mmdeploy_test', help='folder for logs')
    parser.add_argument('--batch-size', type=int, default=1, help='images per run')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    return parser.parse_args(args)


def main(args=None) -> dict:
    args = parse_args(args)
    with errors_in_one_line(also=(AssertionError, KeyError)):
        refuse_missing_files(args.deploy_config, args.config)
        refuse_other_configs(args.deploy_config, args.config, order='DEPLOY_CONFIG CONFIG')
        refuse_missing_files(*(path for path in args.model if not os.path.isdir(path)))
        refuse_folder(args.work_dir)
        refuse_missing_packages('mmdeploy', extra='mmdeploy')
        silence_mmdeploy()
        return test(args)


def test(args) -> dict:
    """Metrics of the test set."""
    import deim_mmdet  # noqa: F401  makes mmdet importable with mmcv-lite

    # isort: split
    from mmdeploy.apis import build_task_processor
    from mmdeploy.utils import load_config

    # registers what a config may name, whichever module it names
    from deim_mmdet.deploy.mmdeploy_support.deploy_config import refuse_device

    deploy_config, config = load_config(args.deploy_config, args.config)
    refuse_device(deploy_config, args.device)
    config.merge_from_dict(args.cfg_options or {})
    task = build_task_processor(config, deploy_config, args.device)
    loader = dict(config.test_dataloader, batch_size=args.batch_size)
    loader['dataset'] = task.build_dataset(loader['dataset'])
    refuse_other_batches(args, len(loader['dataset']))
    model = task.build_backend_model(args.model, task.update_data_preprocessor)
    runner = task.build_test_runner(model, args.work_dir, dataloader=task.build_dataloader(loader))
    return runner.test()


def refuse_other_batches(args, images: int) -> None:
    """Refuse batches that a graph of static batch cannot take, the last one included."""
    from deim_mmdet.deploy.mmdeploy_support.backends import fixed_batch

    fixed = fixed_batch(args.model[0])
    if fixed is None:
        return
    found = f'got --batch-size {args.batch_size}' if args.batch_size != fixed else None
    if found is None and images % fixed:
        found = f'which the {images} images of the test set do not make up'
    if found:
        raise ValueError(
            f'{args.model[0]} was converted for batches of {fixed}, {found}. For any number of '
            'images convert with a deploy config of any batch, configs/deploy/*_batch.py'
        )


if __name__ == '__main__':
    main()
