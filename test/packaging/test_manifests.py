# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two package.xml, setup.py, the interface list and the licence lines agree."""

import ast
import re
from pathlib import Path

import pytest

import neuron_chunk_ros

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = ROOT / 'neuron_chunk_interfaces'
WITH_LICENCE_LINE = {
    '.action', '.cfg', '.cmake', '.cpp', '.hpp', '.msg', '.py', '.sh', '.srv', '.toml', '.xml',
    '.yaml', '.yml',
}
WITH_LICENCE_LINE_BY_NAME = {'CMakeLists.txt', 'MANIFEST.in', 'Makefile', 'run'}


@pytest.fixture(params=[ROOT, INTERFACES], ids=['root', 'interfaces'])
def package(request):
    catkin_package = pytest.importorskip('catkin_pkg.package', reason='needs catkin-pkg')
    warnings = []
    parsed = catkin_package.parse_package(str(request.param), warnings=warnings)
    assert not warnings
    return parsed


def setup_argument(name):
    """Return the literal value of one keyword of setup() in setup.py."""
    tree = ast.parse((ROOT / 'setup.py').read_text())
    call = next(node for node in ast.walk(tree)
                if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup')
    return ast.literal_eval(next(k.value for k in call.keywords if k.arg == name))


def test_versions_agree(package):
    assert package.version == setup_argument('version') == neuron_chunk_ros.__version__


def test_licences_agree(package):
    assert package.licenses == [setup_argument('license')] == ['Apache-2.0']


def test_maintainers_agree(package):
    assert [person.email for person in package.maintainers] == [setup_argument('maintainer_email')]


def test_the_build_lists_every_interface():
    definitions = {path.relative_to(INTERFACES).as_posix() for path in INTERFACES.rglob('*')
                   if path.suffix in ('.msg', '.srv', '.action')}
    listed = set(re.findall(r'\w+/\w+\.(?:msg|srv|action)', (INTERFACES / 'CMakeLists.txt')
                            .read_text()))
    assert listed == definitions


def test_every_field_of_the_interfaces_has_a_comment():
    for path in INTERFACES.rglob('*'):
        if path.suffix not in ('.msg', '.srv', '.action'):
            continue
        before = ''
        for line in path.read_text().splitlines():
            is_field = line and not line.startswith(('#', '---')) and '=' not in line
            assert not is_field or before.startswith('# '), f'{path.name}: {line}'
            before = line


def test_every_source_file_names_its_licence(checkout_files):
    checked = [path for path in checkout_files if path.suffix in WITH_LICENCE_LINE
               or path.name in WITH_LICENCE_LINE_BY_NAME]
    assert len(checked) > 30
    without = [str(path) for path in checked if 'SPDX-License-Identifier: Apache-2.0'
               not in '\n'.join((ROOT / path).read_text().splitlines()[:6])]
    assert not without
