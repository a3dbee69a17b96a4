# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0


def how_to_install(extra: str = 'deploy') -> str:
    """The command for what an extra of this package brings, which no package index has."""
    return f"in a clone of the repository, make deploy or pip install '.[{extra}]'"
