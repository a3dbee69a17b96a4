# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
CONFIG = str(CONFIGS / 'deim/deim_dfine_hgnetv2-atto_digits.py')


def test_table_and_json_agree(tool, capsys):
    assert tool('model_info').main([CONFIG, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['size'] == [192, 192]  # of the config
    total = found['parts'][-1]
    assert (total['name'], total['params']) == ('total', 697_273)

    assert tool('model_info').main([CONFIG]) == 0
    rows = [line.split('│') for line in capsys.readouterr().out.splitlines() if '│' in line]
    assert [row[1].strip() for row in rows] == [part['name'] for part in found['parts']]
    assert f'{rows[-1][2].strip()}' == '697,273'
    assert float(rows[-1][4]) == pytest.approx(total['flops'] / 1e9, abs=5e-4)


def test_size_and_options_count(tool, capsys):
    options = ['--size', '64', '96', '--cfg-options', 'model.bbox_head.num_classes=20', '--json']
    assert tool('model_info').main([CONFIG, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['size'] == [64, 96]
    assert found['parts'][-1]['params'] > 697_273


WRONG = [  # arguments, what the message says
    ([str(CONFIGS / 'deim/no_such_config.py')], 'no_such_config.py'),
    ([str(CONFIGS / '_base_/default_runtime.py')], 'has no model'),
    ([CONFIG, '--size', '100', '192'], 'Take 128 192'),
]


@pytest.mark.parametrize(('args', 'message'), WRONG)
def test_what_cannot_be_counted_is_refused(tool, args, message):
    with pytest.raises(SystemExit, match=message):
        tool('model_info').main(args)
