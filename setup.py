# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Packaging for pip and for colcon (ament_python). Builds native/ and neuron_chunk_interfaces/."""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

# colcon --symlink-install runs a link to this file, so the checkout is where the link points.
ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / 'tools'))

from build_commands import BuildNative, Develop, InstallData  # noqa: E402

NAME = 'neuron_chunk_ros'


def share(folder, pattern):
    """Return the data_files entry for one folder of the checkout; its sources are relative."""
    files = sorted(path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern))
    return f'share/{NAME}/{folder}', [str(path) for path in files]


setup(
    name=NAME,
    version='0.1.0',
    description='Vision-language models for robots whose weights stay on flash',
    author='The neuron_chunk_ros authors',
    maintainer='The neuron_chunk_ros authors',
    maintainer_email='maintainers@example.com',
    license='Apache-2.0',
    python_requires='>=3.10',
    # Looked up beside this file: colcon may run a link to it from its build folder.
    packages=find_packages(where=str(ROOT), include=[NAME, f'{NAME}.*']),
    package_data={f'{NAME}.node': ['*.xml'],
                  f'{NAME}.tabletop': ['model/*', '*.json'],
                  f'{NAME}.compress': ['recipes/*.yaml'],
                  f'{NAME}.compress.export': ['verilog/*.v']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        share('config', '*.yaml'),
        (f'share/{NAME}/config', [f'{NAME}/node/large_messages.xml']),
        share('launch', '*.launch.py'),
    ],
    ext_modules=[Extension(f'{NAME}._native', sources=[])],
    cmdclass={'build_ext': BuildNative, 'develop': Develop, 'install_data': InstallData},
    # Ranges, not pins: a Jetson brings its own torch. The tested set is in requirements/.
    install_requires=[
        'accelerate',
        'jinja2>=3.1.6',
        'matplotlib',
        'numpy>=1.26',
        'pillow',
        'pyyaml',
        'rich>=11',
        'safetensors',
        'tokenizers',
        'torch>=2.4',
        'tqdm',
        'transformers>=5.0',
    ],
    entry_points={
        'console_scripts': [
            f'neuron-chunk = {NAME}.cli.main:command',
            f'neuron_chunk_demo = {NAME}.programs.demo.main:main',
            f'tabletop_publisher = {NAME}.programs.demo.tabletop_publisher:main',
            f'vlm_node = {NAME}.node.main:main',
        ],
    },
    zip_safe=False,
)
