# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Build the digits-in-scenes data set: real handwritten digits on photographs, COCO format."""

import argparse

from deim_mmdet.datasets.digits_in_scenes import DigitsOptions, make_digits


def parse_args(args=None):
    default = DigitsOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', default='data/digits', help='folder of the data set')
    parser.add_argument('--train', type=int, default=default.num_train, help='training scenes')
    parser.add_argument('--val', type=int, default=default.num_val, help='validation scenes')
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        default=default.image_hw,
        metavar=('HEIGHT', 'WIDTH'),
        help='of a scene, in pixels',
    )
    parser.add_argument(
        '--objects',
        type=int,
        nargs=2,
        default=default.objects,
        metavar=('FEWEST', 'MOST'),
        help='digits in a scene',
    )
    parser.add_argument(
        '--digit-size',
        type=float,
        nargs=2,
        default=default.digit_size,
        metavar=('SMALLEST', 'LARGEST'),
        help='longer side of a digit, in pixels',
    )
    parser.add_argument(
        '--photographs',
        nargs='*',
        default=(),
        metavar='PATH',
        help="picture files or folders to use beside scikit-learn's two",
    )
    parser.add_argument('--seed', type=int, default=default.seed, help='seed of the whole set')
    parser.add_argument('--jpeg-quality', type=int, default=default.jpeg_quality, help='1 to 100')
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    try:
        options = DigitsOptions(
            num_train=args.train,
            num_val=args.val,
            image_hw=args.image_size,
            objects=args.objects,
            digit_size=args.digit_size,
            photographs=args.photographs,
            seed=args.seed,
            jpeg_quality=args.jpeg_quality,
        )
        folder = make_digits(args.out, options)
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    print(f'{folder}: {args.train} training and {args.val} validation scenes')


if __name__ == '__main__':
    main()
