# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a trained detector with mmdeploy.

    python tools/mmdeploy_convert.py DEPLOY_CONFIG CONFIG CHECKPOINT IMAGE --work-dir FOLDER

For those who have mmdeploy from pip, without its tools/deploy.py; that one does the same, with the
same arguments. Deploy configs are in configs/deploy.
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


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('deploy_config', help='what to make, of configs/deploy')
    parser.add_argument('config', help='config of the detector')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument(
        'image', nargs='+', help='example; a graph of static batch takes as many at once as these'
    )
    parser.add_argument('--test-img', help='image to draw detections on; defaults to the first')
    parser.add_argument('--work-dir', default='.', help='folder for what is made')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0; TensorRT wants a GPU')
    parser.add_argument('--dump-info', action='store_true', help='write what the SDK reads, too')
    parser.add_argument('--no-draw', action='store_true', help='run and draw nothing afterwards')
    return parser.parse_args(args)


def main(args=None) -> None:
    args = parse_args(args)
    with errors_in_one_line(also=(AssertionError, KeyError)):
        refuse_missing_files(args.deploy_config, args.config, args.checkpoint)
        refuse_missing_files(*args.image, *filter(None, [args.test_img]))
        order = 'DEPLOY_CONFIG CONFIG CHECKPOINT IMAGE'
        refuse_other_configs(args.deploy_config, args.config, order=order)
        refuse_folder(args.work_dir)
        refuse_missing_packages('mmdeploy', extra='mmdeploy')
        silence_mmdeploy()
        convert(args)


def convert(args) -> None:
    import deim_mmdet  # noqa: F401  makes mmdet importable with mmcv-lite

    # isort: split
    from mmdeploy.apis import torch2onnx, visualize_model
    from mmdeploy.apis.utils import to_backend
    from mmdeploy.backend.sdk.export_info import export2SDK
    from mmdeploy.utils import Backend, get_backend, get_ir_config

    deploy_config, config = load_configs(args)
    os.makedirs(args.work_dir, exist_ok=True)
    graph = get_ir_config(deploy_config)['save_file']
    torch2onnx(
        args.image, args.work_dir, graph, deploy_config, config, args.checkpoint, args.device
    )
    backend = get_backend(deploy_config)
    graphs = [os.path.join(args.work_dir, graph)]
    options = dict(work_dir=args.work_dir, deploy_cfg=deploy_config, device=args.device)
    files = to_backend(backend.value, graphs, **options)
    if args.dump_info:
        export2SDK(deploy_config, config, args.work_dir, args.checkpoint, args.device)
    print(f'written: {", ".join(map(str, files))}')
    if args.no_draw:
        return
    image = args.test_img or args.image[0]
    for kind, model in ((backend, files), (Backend.PYTORCH, [args.checkpoint])):
        picture = os.path.join(args.work_dir, f'output_{kind.value}.jpg')
        visualize_model(config, deploy_config, model, image, args.device, kind, picture)


def load_configs(args) -> list:
    """The deploy config and that of the detector.

    Raises:
        ValueError: The deploy config does not name the module, without which mmdeploy fails later,
            or is for another device.
    """
    from mmdeploy.utils import load_config

    from deim_mmdet.deploy.mmdeploy_support.deploy_config import MODULES, is_ours, refuse_device

    deploy_config, config = load_config(args.deploy_config, args.config)
    if not is_ours(deploy_config):
        raise ValueError(
            f'{args.deploy_config}: codebase_config.module must name {MODULES[-1]!r}: take one of '
            'configs/deploy as _base_'
        )
    refuse_device(deploy_config, args.device)
    return deploy_config, config


if __name__ == '__main__':
    main()
