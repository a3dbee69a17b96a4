# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""The model tables of the READMEs; that the metafiles are right is tests/test_model_info.py."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METAFILE = """# a comment that stays
Models:
  - Name: deim_dfine_hgnetv2-n_8xb16-160e_coco
    Config: configs/deim/deim_dfine_hgnetv2-n_8xb16-160e_coco.py
    Metadata:
      Epochs: 160
      Parameters: 3782693
      FLOPs: 7150000000
    Results:
      - Task: Object Detection
        Dataset: COCO
        Metrics:
          box AP: 43.0
    Weights: https://somewhere/n.pth
  - Name: deim_dfine_hgnetv2-n_digits
    Config: configs/deim/deim_dfine_hgnetv2-n_digits.py
    Metadata:
      Epochs: 7  # no COCO AP: in no table
"""
README = 'before\n<!-- models:start{} -->\nan old table\n<!-- models:end -->\nafter\n'
TABLE = """before
<!-- models:start -->
| model | params | GFLOPs | epochs | COCO AP* | weights |
|---|---|---|---|---|---|
| [DEIM-D-FINE-N]({}deim_dfine_hgnetv2-n_8xb16-160e_coco.py) | 3.78 M | 7.2 | 160 | 43.0 | \
[published](https://somewhere/n.pth) |
<!-- models:end -->
after
"""


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'configs/deim'
    folder.mkdir(parents=True)
    (folder / 'metafile.yml').write_text(METAFILE)
    for readme in (folder / 'README.md', tmp_path / 'README.md'):
        readme.write_text(README.format(''))
    return tmp_path


def test_the_tables_of_this_repository_are_up_to_date(tool):
    """Otherwise: python tools/model_table.py"""
    assert tool('model_table').main(['--check']) == 0


def test_tables_are_written_anew(tool, root, capsys):
    module = tool('model_table')
    assert module.main(['--check'], root) == 1
    assert 'README.md is out of date: run `python tools/model_table.py`' in capsys.readouterr().out
    assert (root / 'README.md').read_text() == README.format('')
    assert module.main([], root) == 0
    assert (root / 'README.md').read_text() == TABLE.format('configs/deim/')
    assert (root / 'configs/deim/README.md').read_text() == TABLE.format('')
    assert module.main(['--check'], root) == 0


def test_a_table_may_name_its_folders(tool, root):
    (root / 'configs/dfine').mkdir()
    name = 'dfine_hgnetv2-n_8xb16-160e_coco'
    metafile = METAFILE.replace('deim_dfine', 'dfine').replace('configs/deim', 'configs/dfine')
    (root / 'configs/dfine/metafile.yml').write_text(metafile)
    rows = {}
    for folders in ('', ' configs/dfine', ' configs/dfine configs/deim'):
        (root / 'README.md').write_text(README.format(folders))
        assert tool('model_table').main([], root) == 0
        text = (root / 'README.md').read_text()
        rows[folders] = [line[3:10] for line in text.splitlines() if line.startswith('| [')]
        assert f'<!-- models:start{folders} -->\n' in text
    assert rows[''] == ['DEIM-D-', 'D-FINE-']
    assert rows[' configs/dfine'] == ['D-FINE-'] and f'(configs/dfine/{name}.py)' in text
    assert rows[' configs/dfine configs/deim'] == ['D-FINE-', 'DEIM-D-']


def test_a_model_without_flops_has_an_empty_cell(tool, root):
    (root / 'configs/deim/metafile.yml').write_text(
        METAFILE.replace('      FLOPs: 7150000000\n', '')
    )
    assert tool('model_table').main([], root) == 0
    assert '| 3.78 M |  | 160 |' in (root / 'README.md').read_text()


def test_a_table_without_end_is_refused(tool, root):
    (root / 'README.md').write_text('<!-- models:start -->\n')
    with pytest.raises(SystemExit, match='Put `<!-- models:end -->` on a line below'):
        tool('model_table').main([], root)


TITLES = [  # name of a config, as the papers write it
    ('deim_dfine_hgnetv2-n_8xb16-160e_coco', 'DEIM-D-FINE-N'),
    ('deim_dfine_hgnetv2-x_8xb4-24e_obj365-coco', 'DEIM-D-FINE-X, Objects365'),
    ('deim_rtdetrv2_r50vd-m_8xb2-60e_coco', 'DEIM-RT-DETRv2-R50-m'),
    ('rtdetrv2_r50vd-m-dsp_8xb2-36e_coco', 'RT-DETRv2-R50-m, discrete sampling'),
    ('rtdetr_r101vd_8xb2-72e_coco', 'RT-DETR-R101'),
    ('dn-detr_r50-dc5_8xb2-50e_coco', 'DN-DETR-R50-DC5'),
    ('dn-deformable-detr_r50_8xb2-24e_coco', 'DN-Deformable-DETR-R50'),
    ('dino-4scale_r50_8xb2-12e_coco', 'dino-4scale-R50'),
]


@pytest.mark.parametrize(('name', 'title'), TITLES)
def test_titles(tool, name, title):
    assert tool('model_table').title(name) == title


def test_sizes_are_counted_into_the_metafile(tool, root):
    """Values are set or added; comments and all else stay."""
    module = tool('model_table')
    before = METAFILE.replace('Parameters: 3782693', 'Parameters: 1').replace('7150000000', '2')
    after = module.measured(before, ROOT)
    digits = '    Metadata:\n      FLOPs: 1014000000\n      Parameters: 3737613\n      Epochs: 7  #'
    assert after == METAFILE.replace('    Metadata:\n      Epochs: 7  #', digits)
