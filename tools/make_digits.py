# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Build the digits-in-scenes data set: real handwritten digits on photographs, COCO format."""

import argparse

from command_line import errors_in_one_line


def parse_args(args=None):
    # NOTE the defaults of DigitsOptions, which takes seconds to import; a test compares them
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', default='data/digits', help='folder of the data set')
    parser.add_argument('--train', type=int, default=1000, help='training scenes')
    parser.add_argument('--val', type=int, default=200, help='validation scenes')
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        default=(256, 256),
        metavar=('HEIGHT', 'WIDTH'),
        help='of a scene, in pixels',
    )
    parser.add_argument(
        '--objects',
        type=int,
        nargs=2,
        default=(2, 8),
        metavar=('FEWEST', 'MOST'),
        help='digits in a scene',
    )
    parser.add_argument(
        '--digit-size',
        type=float,
        nargs=2,
        default=(24, 96),
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
    parser.add_argument('--seed', type=int, default=0, help='seed of the whole set')
    parser.add_argument('--jpeg-quality', type=int, default=90, help='1 to 100')
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    with errors_in_one_line():
        from deim_mmdet.datasets.digits_in_scenes import make_digits

        folder = make_digits(args.out, options_of(args))
    print(f'{folder}: {args.train} training and {args.val} validation scenes')


def options_of(args):
    """What the data set holds."""
    from deim_mmdet.datasets.digits_in_scenes import DigitsOptions

    return DigitsOptions(
        num_train=args.train,
        num_val=args.val,
        image_hw=args.image_size,
        objects=args.objects,
        digit_size=args.digit_size,
        photographs=args.photographs,
        seed=args.seed,
        jpeg_quality=args.jpeg_quality,
    )


if __name__ == '__main__':
    main()
