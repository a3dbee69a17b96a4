# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The packages that must be there already, because an install of this one leaves them alone."""

import importlib
import importlib.metadata
import re

# module, distributions that provide it, at least, below, what to install where it is missing
REQUIRED = (
    ('torch', ('torch',), '2.0', None, 'torch'),
    ('mmengine', ('mmengine',), '0.10', '1.0', 'mmengine'),
    ('mmcv', ('mmcv', 'mmcv-lite'), '2.0', '2.2', 'mmcv-lite'),
    ('mmdet', ('mmdet',), '3.2', '4.0', 'mmdet'),
)


def check_versions():
    """Raises ImportError, with the command that helps, where a needed package is missing or unfit.

    All problems are told at once. Nothing is imported unless a package has no metadata.
    """
    problems, commands = [], []
    for module, distributions, at_least, below, install in REQUIRED:
        found = installed_version(module, distributions)
        if found is not None and fits(found, at_least, below):
            continue
        bounds = f'>={at_least}' + (f',<{below}' if below else '')
        problems.append(f'{module}{bounds} is needed, found ' + (found or 'none'))
        # The flavour of mmcv that is installed stays: mmcv and mmcv-lite share a folder.
        flavour = distribution_of(distributions) or install
        commands.append(f'"{flavour}{bounds}"')
    if problems:
        note = ''
        if any('mmcv-lite' in command for command in commands):
            note = (
                '\nmmcv-lite is pure Python and enough for every model of deim_mmdet; full mmcv '
                '(compiled, for models such as Mask R-CNN) does as well.'
            )
        raise ImportError(
            'deim_mmdet cannot run in this environment:\n  '
            + '\n  '.join(problems)
            + '\nInstall what is missing:\n  pip install '
            + ' '.join(commands)
            + note
        )


def has_any_requirement():
    """Whether any of the needed packages is there; without all of them only exported files run."""
    return any(installed_version(row[0], row[1]) is not None for row in REQUIRED)


def installed_version(module, distributions):
    """Version of a module, from the metadata of its distribution or else from itself, or None."""
    name = distribution_of(distributions)
    if name is not None:
        return importlib.metadata.version(name)
    try:
        return getattr(importlib.import_module(module), '__version__', None)
    except ModuleNotFoundError:
        return None


def distribution_of(distributions):
    """The first of the distributions that is installed, or None."""
    for name in distributions:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return None


def fits(version, at_least, below=None):
    """Whether ``at_least <= version < below`` by release number: '2.0.0rc4' counts as 2.0.0."""
    release = _release(version)
    return _release(at_least) <= release and (below is None or release < _release(below))


def _release(version):
    numbers = re.match(r'\d+(\.\d+)*', version).group().split('.')
    release = [int(number) for number in numbers]
    return tuple(release + [0] * (4 - len(release)))
