# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""A config that loses this plugin by overriding ``custom_imports`` is told so."""

from mmdet import registry as mmdet_registry
from mmengine.registry import Registry

PACKAGE = 'deim_mmdet'


def check_custom_imports(cfg):
    """Checks that a config that uses this plugin also imports it.

    A child config's ``custom_imports`` replaces the list of its base. While the plugin happens to
    be imported the config works; it fails later, from its checkpoint or under mmdet's own tools.

    Args:
        cfg (Config): The whole config.

    Raises:
        ValueError: Where a class of deim_mmdet is named and ``custom_imports`` lacks the plugin.
    """
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if any(name.split('.')[0] == PACKAGE for name in imports):
        return
    used = sorted(_registered_names() & set(_types(cfg)))
    if used:
        wanted = dict(imports=[PACKAGE, *imports], allow_failed_imports=False)
        raise ValueError(
            f'The config {cfg.filename or ""} uses {", ".join(used)} of {PACKAGE} but does not '
            f'import the plugin: its custom_imports has imports={imports}. A child config replaces '
            f'the list of its base, so it must repeat the plugin:\n'
            f'custom_imports = {wanted}'
        )


def _registered_names():
    registries = [item for item in vars(mmdet_registry).values() if isinstance(item, Registry)]
    return {
        name
        for registry in registries
        for name, item in registry.module_dict.items()
        if getattr(item, '__module__', '').split('.')[0] == PACKAGE
    }


def _types(node):
    """All values of `type` in a config."""
    if isinstance(node, (list, tuple)):
        children = node
    elif hasattr(node, 'items'):
        if isinstance(node.get('type'), str):
            yield node['type'].split('.')[-1]
        children = [child for _, child in node.items()]
    else:
        return
    for child in children:
        yield from _types(child)
