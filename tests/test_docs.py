# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Links between the pages of this repository lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ('.', 'docs', 'configs/*', 'tools/*')
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f'{folder}/*.md'))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links(page):
    links = re.findall(r'\]\((?!https?://|#)([^)#\s]+)', page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
